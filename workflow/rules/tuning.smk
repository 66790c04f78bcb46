# Requires: RUNGS and the rules of tables. Produces: the tables of the candidates, and what is chosen.
if RUNGS:
    RUNG = f"results/{{study,{'|'.join(re.escape(rung.study) for rung in RUNGS)}}}"

    use rule study as tuning_study with:
        output:
            f"{RUNG}/study.json",
        log:
            "results/{study}/logs/study.log",
        params:
            config=lambda wildcards: PLAN[wildcards.study],

    use rule collect as tuning_collect with:
        input:
            study="results/{study}/study.json",
            choice=lambda wildcards: (
                f"results/{wildcards.study}/{CHOICE}" if wildcards.study in CHOOSE else []
            ),
            runs=runs_of_rung,
        output:
            [f"{RUNG}/tables/{name}.{kind}" for name in TABLES for kind in TABLE_KINDS],
        log:
            "results/{study}/logs/collect.log",


# Checkpoints: what the study after a rung trains is known after it.
for rung, (name, checkpoint_name) in zip(RUNGS, CHOOSE.items()):

    checkpoint:
        name:
            checkpoint_name
        input:
            study=f"results/{rung.study}/study.json",
            tables=tables_of(rung, TABLES),
            references=user_table(STUDY, "references"),
            random=rules.statistics.input.random,
        output:
            choice=f"results/{name}/{CHOICE}",
            tables=tables_of(rung, TUNED),
        log:
            f"results/{rung.study}/logs/choose.log",
        resources:
            **small_job(),
        params:
            code=lambda wildcards: code_of("mpo.analysis.tuning"),
            given=lambda wildcards, input: content_of(input.references),
            tables=lambda wildcards, input: Path(input.tables[0]).parent,
        shell:
            "python -m mpo choose --study {input.study:q} --tables {params.tables:q}"
            " --references {input.references:q} --random {input.random:q} --out {output.choice:q}"
            " {resources.options} --log {log:q}"
