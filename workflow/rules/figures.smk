# Requires: the tables. Produces: each figure as PNG, PDF and SVG, by a rule of its own.
for figure, module in FIGURES.items():

    rule:
        name:
            f"figure_{figure}"
        input:
            study=f"{STUDY_DIR}/study.json",
            tables=rules.collect.output,
            answers=rules.statistics.output,
        output:
            pictures=[
                report(
                    f"{STUDY_DIR}/figures/{figure}.png",
                    caption=os.path.abspath(f"{STUDY_DIR}/figures/{figure}.rst"),
                    category="Figures",
                    labels={"figure": figure.replace("_", " ")},
                ),
                f"{STUDY_DIR}/figures/{figure}.pdf",
                f"{STUDY_DIR}/figures/{figure}.svg",
            ],
            caption=f"{STUDY_DIR}/figures/{figure}.rst",
        log:
            f"{STUDY_DIR}/logs/figures/{figure}.log",
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


# A target: draws what is missing or older than the tables.
rule figures:
    input:
        [
            f"{STUDY_DIR}/figures/{name}.{kind}"
            for name in FIGURES
            for kind in ("png", "pdf", "svg", "rst")
        ],
    localrule: True
