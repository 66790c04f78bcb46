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


# How to run is no part of what is run: it stands outside of params, and changing it redoes nothing.
EXECUTION = STUDY.execution
WATCH = f"--environment-timeout {EXECUTION.environment_timeout_s:g}"
HOW_TO_TRAIN = (
    f"--device {EXECUTION.device} --runs-per-gpu {EXECUTION.runs_per_gpu}"
    f" --checkpoint-interval {EXECUTION.checkpoint_interval_s:g} {WATCH}"
    + ("" if EXECUTION.keep_resume_state else " --discard-resume-state")
)
STATUS = f"{STUDY_DIR}/status/{{run}}/step{{steps}}.json"


# What it can resume from is no output: Snakemake deletes the outputs of a failed job.
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
        gpu=0 if EXECUTION.device == "cpu" else 1,
    params:
        out=subpath(output.record, parent=True),
        status=STATUS,
        resume=lambda wildcards: RUNS[wildcards.run].resume_directory,
    shell:
        "python -m mpo train --spec {input:q} --total-steps {wildcards.steps}"
        " {HOW_TO_TRAIN} --threads {threads} --out {params.out:q}"
        " --resume {params.resume:q} --status {params.status:q} --log {log:q}"


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
        status=STATUS,
    shell:
        "python -m mpo evaluate --run {params.run:q} --config {params.config:q} {WATCH}"
        " --status {params.status:q} --log {log:q}"
