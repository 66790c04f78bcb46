# Requires: STUDY, IDENTITIES, TRAINING_RULES. Produces: for each run its trained policies and their evaluation.
RUN_DIR = f"{STUDY_DIR}/runs/{{cell}}/seed{{seed}}/step{{steps}}"
LOG_DIR = f"{STUDY_DIR}/logs/{{cell}}/seed{{seed}}/step{{steps}}"

# How to run is no part of what is run: it stands among the resources, for params decide what is
# redone.
EXECUTION = STUDY.execution
GPUS = 0 if EXECUTION.device == "cpu" else 1
DEVICE = f"--device {EXECUTION.device} --runs-per-gpu {EXECUTION.runs_per_gpu}"
DEVICE += " --compile-on-cpu" if EXECUTION.compile_on_cpu else ""
WATCH = f"--environment-timeout {EXECUTION.environment_timeout_s:g}"
EAGER = "" if EXECUTION.cuda_graphs else " --no-cuda-graphs"
KEEP = "" if EXECUTION.keep_resume_state else " --discard-resume-state"


# A rule for one seed, and one for each pack of seeds that is to be trained. They have the same
# params, shell and inputs (none): Snakemake compares these, so a result stays what it is when seeds
# are packed in another way. What is learnt hangs on one canonical string, for Snakemake compares
# params as a set of values, in which separate ones could trade places unseen.
for name, (seeds, steps, cells) in TRAINING_RULES.items():

    rule:
        name:
            name
        output:
            metrics=expand(f"{RUN_DIR}/train.parquet", seed=seeds, steps=steps, allow_missing=True),
            policies=expand(f"{RUN_DIR}/policies.pt", seed=seeds, steps=steps, allow_missing=True),
            records=expand(f"{RUN_DIR}/run.json", seed=seeds, steps=steps, allow_missing=True),
        log:
            expand(f"{LOG_DIR}/train.log", seed=seeds, steps=steps, allow_missing=True),
        wildcard_constraints:
            cell=cells,
        threads: EXECUTION.threads
        resources:
            gpu=GPUS,
            options=f"{DEVICE} --checkpoint-interval {EXECUTION.checkpoint_interval_s:g}"
            f" {WATCH}{EAGER}{KEEP}",
        params:
            cell=lambda wildcards: IDENTITIES[wildcards.cell],
        shell:
            "python -m mpo train --cell {params.cell:q} {resources.options} --threads {threads}"
            " --out {output.records:q} --log {log:q}"


# Of what a training leaves one file stands for all: with ten thousand runs each input takes seconds.
rule evaluate:
    input:
        f"{RUN_DIR}/policies.pt",
    output:
        episodes=f"{RUN_DIR}/evals.parquet",
        cost=f"{RUN_DIR}/evals.json",
    log:
        f"{LOG_DIR}/evaluate.log",
    resources:
        options=WATCH,
    params:
        run=subpath(input[0], parent=True),
        config=EvaluationSpec(**STUDY.evaluation.model_dump()).identity,
    shell:
        "python -m mpo evaluate --run {params.run:q} --config {params.config:q} {resources.options}"
        " --log {log:q}"


# Asked for by its file; what is seen is the first episode of the final evaluation.
rule video:
    input:
        rules.train.output,
        rules.evaluate.output,
    output:
        f"{RUN_DIR}/video.{{kind,mp4|gif}}",
    log:
        f"{LOG_DIR}/video.{{kind}}.log",
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m mpo video --run {params.run:q} --out {output:q} --log {log:q}"


rule events:
    input:
        rules.train.output,
        rules.evaluate.output,
    output:
        f"{STUDY_DIR}/tensorboard/{{cell}}/seed{{seed}}/step{{steps}}/events.out.tfevents.run",
    log:
        f"{LOG_DIR}/events.log",
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m mpo events --run {params.run:q} --out {output:q} --log {log:q}"


EVENTS = [
    rules.events.output[0].format(cell=run.cell_id, seed=run.seed, steps=run.total_steps)
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
