# Requires: every run's files. Produces: the study's tables, its statistics and its summary page.
TABLES = ["runs", "evals", "train", "curves", "scores"]
ANSWERS = ["finals", "references", "aggregates", "profiles"]
ANSWERS += ["improvements", "effects", "differences", "efficiency", "power", "baselines"]
ANSWERS += ["sample_efficiency"]
STATISTICS_CODE = ["statistics", "stats", "resampling", "intervals", "effects", "efficiency"]
STATISTICS_CODE += ["references", "baselines"]
PAGE_CODE = ["summary", "publication", "typeset", "intervals", "figures/style"]
ENVIRONMENTS = {environment.slug: environment.id for environment in STUDY.environments}


localrules:
    study,


# First of all, for `python -m mpo status` reads it. How runs execute is left out: it redoes nothing.
rule study:
    output:
        f"{STUDY_DIR}/study.json",
    log:
        f"{STUDY_DIR}/logs/study.log",
    priority: 1
    params:
        config=canonical_json({key: config[key] for key in config if key != "execution"}),
    shell:
        "printf '%s\\n' {params.config:q} > {output:q} 2> {log:q}"


# The code of an analysis is among its inputs, so an edit redoes that analysis and nothing else.
rule collect:
    input:
        code=["mpo/analysis/tables.py", "mpo/analysis/intervals.py"],
        study=f"{STUDY_DIR}/study.json",
        # A function, for every job reads these rules and few jobs are this one.
        runs=lambda wildcards: [
            f"{directory}/{name}"
            for directory in (run.directory for run in WANTED)
            for name in TABLED
        ],
    output:
        [f"{STUDY_DIR}/tables/{name}.{kind}" for name in TABLES for kind in ("parquet", "csv")],
    log:
        f"{STUDY_DIR}/logs/collect.log",
    params:
        tables=subpath(output[0], parent=True),
    shell:
        "python -m mpo collect --study {input.study:q} --out {params.tables:q} --log {log:q}"


rule random:
    output:
        f"{STUDY_DIR}/random/{{env}}.json",
    log:
        f"{STUDY_DIR}/logs/random/{{env}}.log",
    params:
        env=lambda wildcards: ENVIRONMENTS[wildcards.env],
        episodes=STUDY.statistics.random_episodes,
        version=EVALUATION_VERSION,
    shell:
        "python -m mpo random --env {params.env:q} --episodes {params.episodes} --out {output:q}"
        " --log {log:q}"


rule statistics:
    input:
        code=[f"mpo/{name}.py" for name in STATISTICS_CODE],
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        references="config/references.csv",
        baselines=[path for path in ["config/baselines.csv"] if Path(path).exists()],
        random=expand(rules.random.output, env=ENVIRONMENTS),
    output:
        [f"{STUDY_DIR}/tables/{name}.{kind}" for name in ANSWERS for kind in ("parquet", "csv")],
    log:
        f"{STUDY_DIR}/logs/statistics.log",
    params:
        tables=subpath(output[0], parent=True),
    shell:
        "python -m mpo statistics --study {input.study:q} --tables {params.tables:q}"
        " --references {input.references:q} --baselines {input.baselines:q}"
        " --random {input.random:q} --log {log:q}"


rule typeset:
    input:
        code=["mpo/report/paper_tables.py", "mpo/report/typeset.py", "mpo/analysis/intervals.py"],
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        answers=rules.statistics.output,
    output:
        [f"{STUDY_DIR}/typeset/{name}.{form}" for name in TYPESET for form in ("tex", "md")],
    log:
        f"{STUDY_DIR}/logs/typeset.log",
    params:
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        out=subpath(output[0], parent=True),
    shell:
        "python -m mpo typeset --study {input.study:q} --tables {params.tables:q}"
        " --out {params.out:q} --log {log:q}"


rule summary:
    input:
        code=[f"mpo/{name}.py" for name in PAGE_CODE] + list(FIGURE_CODE.values()),
        study=f"{STUDY_DIR}/study.json",
        tables=rules.collect.output,
        answers=rules.statistics.output,
        figures=[f"{STUDY_DIR}/figures/{name}.png" for name in FIGURES],
    output:
        f"{STUDY_DIR}/summary.md",
    log:
        f"{STUDY_DIR}/logs/summary.log",
    params:
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
    shell:
        "python -m mpo summary --study {input.study:q} --tables {params.tables:q}"
        " --figures {input.figures:q} --out {output:q} --log {log:q}"


# What the report shows: `snakemake --report`.
rule pages:
    input:
        code=["mpo/report/html.py"],
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
    params:
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        out=subpath(output[0], parent=True),
    shell:
        "python -m mpo pages --study {input.study:q} --tables {params.tables:q}"
        " --summary {input.summary:q} --films {input.films:q} --out {params.out:q} --log {log:q}"
