# Requires: STUDY, RUNS. Produces: for each run its spec, its trained policies and their evaluation.
RUN_DIR = f"{STUDY_DIR}/runs/{{run}}/step{{steps}}"


localrules:
    spec,


# The identity of a run is one canonical string: Snakemake compares params as a set of values, so
# separate ones could trade places unseen.
rule spec:
    output:
        f"{STUDY_DIR}/runs/{{run}}/spec.json",
    log:
        f"{STUDY_DIR}/logs/{{run}}/spec.log",
    params:
        spec=lambda wildcards: RUNS[wildcards.run].spec.identity,
    shell:
        "printf '%s\\n' {params.spec:q} > {output:q} 2> {log:q}"


rule train:
    input:
        f"{STUDY_DIR}/runs/{{run}}/spec.json",
    output:
        metrics=f"{RUN_DIR}/train.parquet",
        policies=f"{RUN_DIR}/policies.pt",
        record=f"{RUN_DIR}/run.json",
    log:
        f"{STUDY_DIR}/logs/{{run}}/step{{steps}}/train.log",
    threads: STUDY.execution.threads
    resources:
        gpu=1 if STUDY.execution.device == "cuda" else 0,
        device=STUDY.execution.device,
    params:
        out=subpath(output.record, parent=True),
    shell:
        "python -m mpo train --spec {input:q} --total-steps {wildcards.steps}"
        " --device {resources.device} --threads {threads} --out {params.out:q}"
        " --log {log:q}"


rule evaluate:
    input:
        policies=rules.train.output.policies,
        record=rules.train.output.record,
    output:
        episodes=f"{RUN_DIR}/evals.parquet",
        cost=f"{RUN_DIR}/evals.json",
    log:
        f"{STUDY_DIR}/logs/{{run}}/step{{steps}}/evaluate.log",
    params:
        run=subpath(input.record, parent=True),
        config=EvaluationSpec(**STUDY.evaluation.model_dump()).identity,
    shell:
        "python -m mpo evaluate --run {params.run:q} --config {params.config:q}" " --log {log:q}"
