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


# How to run is no part of what is run: it stands among the resources, for params decide what is
# redone.
EXECUTION = STUDY.execution
GPUS = 0 if EXECUTION.device == "cpu" else 1
DEVICE = f"--device {EXECUTION.device} --runs-per-gpu {EXECUTION.runs_per_gpu}"
WATCH = f"--environment-timeout {EXECUTION.environment_timeout_s:g}"
KEEP = "" if EXECUTION.keep_resume_state else " --discard-resume-state"
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
    threads: EXECUTION.threads
    resources:
        gpu=GPUS,
        options=f"{DEVICE} --checkpoint-interval {EXECUTION.checkpoint_interval_s:g} {WATCH}{KEEP}",
    params:
        out=subpath(output.record, parent=True),
        status=STATUS,
        resume=lambda wildcards: RUNS[wildcards.run].resume_directory,
    shell:
        "python -m mpo train --spec {input:q} --total-steps {wildcards.steps}"
        " {resources.options} --threads {threads} --out {params.out:q}"
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
    resources:
        options=WATCH,
    params:
        run=subpath(input.record, parent=True),
        config=EvaluationSpec(**STUDY.evaluation.model_dump()).identity,
        status=STATUS,
    shell:
        "python -m mpo evaluate --run {params.run:q} --config {params.config:q} {resources.options}"
        " --status {params.status:q} --log {log:q}"


# Asked for by its file; what is seen is the first episode of the final evaluation.
rule video:
    input:
        rules.train.output,
        rules.evaluate.output,
    output:
        f"{RUN_DIR}/video.{{kind,mp4|gif}}",
    log:
        f"{STUDY_DIR}/logs/{{run}}/step{{steps}}/video.{{kind}}.log",
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m mpo video --run {params.run:q} --out {output:q} --log {log:q}"


rule events:
    input:
        rules.train.output,
        rules.evaluate.output,
    output:
        f"{STUDY_DIR}/tensorboard/{{run}}/step{{steps}}/events.out.tfevents.run",
    log:
        f"{STUDY_DIR}/logs/{{run}}/step{{steps}}/events.log",
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m mpo events --run {params.run:q} --out {output:q} --log {log:q}"


EVENTS = [
    rules.events.output[0].format(run=run.run_id, steps=run.total_steps)
    for run in WANTED
    if STUDY.extras.tensorboard
]
FIRST = {(run.env_slug, run.variant): run for run in reversed(WANTED)}
FILMS = [f"{run.directory}/video.mp4" for run in reversed(FIRST.values()) if STUDY.extras.videos]


# A target of its own: no study needs it, but whoever doubts one. From first to last, so that
# environments and arms differ.
COUNT = min(STUDY.verification.runs, len(STUDY.runs))
SAMPLE = [STUDY.runs[(len(STUDY.runs) - 1) * i // max(1, COUNT - 1)] for i in range(COUNT)]


rule verify:
    input:
        [f"{run.directory}/{name}" for run in SAMPLE for name in ("run.json", "train.parquet")],
    output:
        f"{STUDY_DIR}/verification.md",
    log:
        f"{STUDY_DIR}/logs/verify.log",
    threads: EXECUTION.threads
    resources:
        gpu=GPUS,
        options=DEVICE,
    params:
        runs=[run.directory for run in SAMPLE],
        steps=STUDY.verification.steps,
        machine=platform.node(),  # another one has another answer
    shell:
        "python -m mpo verify --runs {params.runs:q} --steps {params.steps} {resources.options}"
        " --threads {threads} --out {output:q} --log {log:q}"
