# Requires: every run's files. Produces: the study's tables, its statistics and its summary page.
ENVIRONMENTS = {environment.slug: environment for environment in STUDY.environments}
WITHOUT = " --allow-missing" if STUDY.allow_missing else ""
SCALE = shlex.quote(str(user_table(STUDY, "references")))


# Made first, since `python -m mpo status` reads it.
rule study:
    output:
        f"{STUDY_DIR}/study.json",
    log:
        f"{STUDY_DIR}/logs/study.log",
    priority: 1
    localrule: True
    params:
        config=PLAN[STUDY.study],
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


rule collect:
    input:
        study=f"{STUDY_DIR}/study.json",
        choice=[f"{STUDY_DIR}/{CHOICE}"] if RUNGS else [],
        # A function: every job parses this file, and only this rule needs the list.
        runs=lambda wildcards: files_of(WANTED[STUDY.study]),
    output:
        tables_of(STUDY, TABLES),
    log:
        f"{STUDY_DIR}/logs/collect.log",
    resources:
        **small_job(),
    params:
        code=lambda wildcards: code_of("mpo.analysis.collect"),
        tables=subpath(output[0], parent=True),
    shell:
        "python -m mpo collect --study {input.study:q} --out {params.tables:q} {resources.options}"
        " --log {log:q}"


rule random:
    output:
        f"{STUDY_DIR}/random/{{env}}.json",
    log:
        f"{STUDY_DIR}/logs/random/{{env}}.log",
    # Before all trainings: it finds a reference that no score can be computed with.
    priority: 2
    resources:
        **small_job(f"--budget {max(BUDGETS.values())} --references {SCALE} {WATCH}{WITHOUT}"),
    params:
        config=lambda wildcards: STUDY.random_spec(ENVIRONMENTS[wildcards.env]).identity,
    shell:
        "python -m mpo random --config {params.config:q} --out {output:q} {resources.options}"
        " --log {log:q}"


rule statistics:
    input:
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        references=user_table(STUDY, "references"),
        baselines=user_table(STUDY, "baselines"),
        others=[each.path for each in STUDY.others],
        # Of an environment without any run nothing is asked: it may not even work.
        random=expand(
            rules.random.output, env=dict.fromkeys(run.env_slug for run in WANTED[STUDY.study])
        ),
    output:
        tables_of(STUDY, ANSWERS),
    log:
        f"{STUDY_DIR}/logs/statistics.log",
    resources:
        **small_job(),
    params:
        code=lambda wildcards: code_of(
            "mpo.analysis.answers", "mpo.analysis.baselines", "mpo.analysis.others"
        ),
        given=lambda wildcards, input: content_of(input.references, input.baselines, *input.others),
        tables=subpath(output[0], parent=True),
    shell:
        "python -m mpo statistics --study {input.study:q} --tables {params.tables:q}"
        " --references {input.references:q} --baselines {input.baselines:q}"
        " --random {input.random:q} {resources.options} --log {log:q}"


rule typeset:
    input:
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        answers=rules.statistics.output,
    output:
        [f"{STUDY_DIR}/typeset/{name}.{form}" for name in TYPESET for form in ("tex", "md")],
    log:
        f"{STUDY_DIR}/logs/typeset.log",
    resources:
        **small_job(),
    params:
        code=lambda wildcards: code_of("mpo.report.paper_tables"),
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        out=subpath(output[0], parent=True),
    shell:
        "python -m mpo typeset --study {input.study:q} --tables {params.tables:q}"
        " --out {params.out:q} {resources.options} --log {log:q}"


rule summary:
    input:
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        answers=rules.statistics.output,
        figures=[
            *[f"{STUDY_DIR}/figures/{name}.png" for name in FIGURES],
            *[
                f"results/{rung.study}/figures/{name}.png"
                for rung in RUNGS[:1]
                for name in TUNING_FIGURES
            ],
        ],
        choices=[f"results/{rung.study}/tables/{TUNED[0]}.parquet" for rung in RUNGS],
    output:
        f"{STUDY_DIR}/summary.md",
    log:
        f"{STUDY_DIR}/logs/summary.log",
    resources:
        **small_job(),
    params:
        code=lambda wildcards: code_of(
            "mpo.report.summary", *FIGURES.values(), *TUNING_FIGURES.values()
        ),
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        tuning=" --tuning" * bool(RUNGS) + "".join(f" results/{r.study}/tables" for r in RUNGS),
    shell:
        "python -m mpo summary --study {input.study:q} --tables {params.tables:q}{params.tuning}"
        " --figures {input.figures:q} --out {output:q} {resources.options} --log {log:q}"


# What the report shows: `snakemake --report`.
rule pages:
    input:
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        answers=rules.statistics.output,
        summary=rules.summary.output,
        figures=rules.summary.input.figures,
        films=FILMS,
    output:
        report(
            f"{STUDY_DIR}/pages/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"page": "the study"},
        ),
        report(
            f"{STUDY_DIR}/pages/config.html",
            caption="../report/config.rst",
            category="Config",
            labels={"page": "config"},
        ),
        [
            report(f"{STUDY_DIR}/pages/{name}.html", category="Tables", labels={"table": name})
            for name in PAGES
        ],
        [
            report(f"{STUDY_DIR}/pages/films.html", category="Films", labels={"page": "films"})
            for _ in FILMS[:1]
        ],
    log:
        f"{STUDY_DIR}/logs/pages.log",
    resources:
        **small_job(),
    params:
        code=lambda wildcards: code_of("mpo.report.html"),
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        out=subpath(output[0], parent=True),
    shell:
        "python -m mpo pages --study {input.study:q} --tables {params.tables:q}"
        " --summary {input.summary:q} --films {input.films:q} --out {params.out:q}"
        " {resources.options} --log {log:q}"
