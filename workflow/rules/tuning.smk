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

    for figure, module in TUNING_FIGURES.items():

        rule:
            name:
                f"figure_{figure}"
            input:
                study=f"{TUNING_DIR}/study.json",
                tables=rules.tuning_collect.output,
                answers=checkpoints.choose.rule.output.tables,
            output:
                pictures=[
                    report(
                        f"{TUNING_DIR}/figures/{figure}.png",
                        caption=os.path.abspath(f"{TUNING_DIR}/figures/{figure}.rst"),
                        category="Figures",
                        labels={"figure": figure.replace("_", " ")},
                    ),
                    f"{TUNING_DIR}/figures/{figure}.pdf",
                    f"{TUNING_DIR}/figures/{figure}.svg",
                ],
                caption=f"{TUNING_DIR}/figures/{figure}.rst",
            log:
                f"{TUNING_DIR}/logs/figures/{figure}.log",
            resources:
                **small_job(),
            params:
                code=lambda wildcards, module=module: code_of(module),
                figure=figure,
                tables=lambda wildcards, input: Path(input.tables[0]).parent,
            shell:
                "python -m mpo figure --name {params.figure} --study {input.study:q}"
                " --tables {params.tables:q} --out {output.pictures:q} --caption {output.caption:q}"
                " {resources.options} --log {log:q}"
