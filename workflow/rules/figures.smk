# Requires: the tables. Produces: each figure as PNG, PDF and SVG, by a rule of its own.
DRAWN = [(STUDY_DIR, name, rules.collect.output, rules.statistics.output) for name in FIGURES]
# Later rungs of tuning have only some of the candidates.
DRAWN += [
    (f"results/{rung.study}", name, tables_of(rung, TABLES), tables_of(rung, TUNED))
    for rung in RUNGS[:1]
    for name in TUNING_FIGURES
]

for folder, figure, tables, answers in DRAWN:

    rule:
        name:
            f"figure_{figure}"
        input:
            study=f"{folder}/study.json",
            tables=tables,
            answers=answers,
        output:
            pictures=[
                report(
                    f"{folder}/figures/{figure}.png",
                    caption=os.path.abspath(f"{folder}/figures/{figure}.rst"),
                    category="Figures",
                    labels={"figure": figure.replace("_", " ")},
                ),
                f"{folder}/figures/{figure}.pdf",
                f"{folder}/figures/{figure}.svg",
            ],
            caption=f"{folder}/figures/{figure}.rst",
        log:
            f"{folder}/logs/figures/{figure}.log",
        resources:
            **small_job(),
        params:
            code=lambda wildcards, figure=figure: code_of({**FIGURES, **TUNING_FIGURES}[figure]),
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
            f"{folder}/figures/{name}.{kind}"
            for folder, name, *_ in DRAWN
            for kind in ("png", "pdf", "svg", "rst")
        ],
    localrule: True
