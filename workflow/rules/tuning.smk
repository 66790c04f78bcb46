# Requires: TUNING and the rules of tables. Produces: the tables of the candidates, and what is chosen.
if TUNING:

    use rule study as tuning_study with:
        output:
            f"{TUNING_DIR}/study.json",
        log:
            f"{TUNING_DIR}/logs/study.log",
        params:
            config=PLAN[TUNING.study],

    use rule collect as tuning_collect with:
        input:
            study=f"{TUNING_DIR}/study.json",
            choice=[],
            runs=lambda wildcards: files_of(TUNING),
        output:
            [f"{TUNING_DIR}/tables/{name}.{kind}" for name in TABLES for kind in ("parquet", "csv")],
        log:
            f"{TUNING_DIR}/logs/collect.log",

    # A checkpoint: what reported runs are trained with is known after it.
    checkpoint choose:
        input:
            study=f"{TUNING_DIR}/study.json",
            tables=rules.tuning_collect.output,
            references=user_table(STUDY, "references"),
            random=rules.statistics.input.random,
        output:
            choice=CHOSEN,
            tables=[
                f"{TUNING_DIR}/tables/{name}.{kind}"
                for name in TUNED
                for kind in ("parquet", "csv")
            ],
        log:
            f"{TUNING_DIR}/logs/choose.log",
        resources:
            **small_job(),
        params:
            code=lambda wildcards: code_of("mpo.analysis.tuning"),
            tables=lambda wildcards, input: Path(input.tables[0]).parent,
        shell:
            "python -m mpo choose --study {input.study:q} --tables {params.tables:q}"
            " --references {input.references:q} --random {input.random:q} --out {output.choice:q}"
            " {resources.options} --log {log:q}"
