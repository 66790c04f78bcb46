# Requires: STUDY, CHOOSE, TRAINING_RULES. Produces: for each run its trained policies and their evaluation.
RUN_DIR = "results/{study}/runs/{cell}/seed{seed}/step{steps}"
LOG_DIR = "results/{study}/logs/{cell}/seed{seed}/step{steps}"

# How a run executes changes no result. It stands among the resources, because a changed param
# would train the run again.
EXECUTION = STUDY.execution
GPUS = 0 if EXECUTION.device == "cpu" else 1
DEVICE = f"--device {EXECUTION.device} --runs-per-gpu {EXECUTION.runs_per_gpu}"
COMPILE = f" --compile-on-cpu {str(EXECUTION.compile_on_cpu).lower()}"
WATCH = f"--environment-timeout {EXECUTION.environment_timeout_s:g}"
EAGER = "" if EXECUTION.cuda_graphs else " --no-cuda-graphs"
KEEP = "" if EXECUTION.keep_resume_state else " --discard-resume-state"


# One rule for single seeds, and one for each pack of seeds that is to be trained. All have the same
# params, shell and inputs. These are what Snakemake compares, so packing seeds in another way
# trains nothing again. What is learnt depends on one canonical string: Snakemake compares params as
# a set of values, in which two values could swap places unnoticed.
for name, (seeds, steps, cells) in TRAINING_RULES.items():

    rule:
        name:
            name
        input:
            chosen,
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
            **training_job(
                8000,
                720,
                f"{DEVICE} --checkpoint-interval {EXECUTION.checkpoint_interval_s:g}"
                f" {WATCH}{COMPILE}{EAGER}{KEEP}",
            ),
            gpu=GPUS,
        params:
            cell=identity,
        shell:
            "python -m mpo train --cell {params.cell:q} {resources.options} --threads {threads}"
            " --out {output.records:q} --log {log:q}"


# One file of a training stands for all of them: with ten thousand runs each input takes seconds.
# Evaluations go before further trainings, so that whatever stops a study finds few runs unfinished.
rule evaluate:
    input:
        f"{RUN_DIR}/policies.pt",
    output:
        episodes=f"{RUN_DIR}/evals.parquet",
        cost=f"{RUN_DIR}/evals.json",
    log:
        f"{LOG_DIR}/evaluate.log",
    priority: 1
    threads: EXECUTION.threads
    resources:
        **parallel_job(2000, 60, WATCH),
    params:
        run=subpath(input[0], parent=True),
        config=STUDY.evaluation_spec.identity,
    shell:
        "python -m mpo evaluate --run {params.run:q} --config {params.config:q} {resources.options}"
        " --log {log:q}"


# Made when its file is asked for. It shows the first episode of the final evaluation.
rule video:
    input:
        rules.train.output,
        rules.evaluate.output,
    output:
        f"{RUN_DIR}/video.{{kind,mp4|gif}}",
    log:
        f"{LOG_DIR}/video.{{kind}}.log",
    resources:
        **small_job(WATCH),
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m mpo video --run {params.run:q} --out {output:q} {resources.options}"
        " --log {log:q}"


rule events:
    input:
        rules.train.output,
        rules.evaluate.output,
    output:
        "results/{study}/tensorboard/{cell}/seed{seed}/step{steps}/events.out.tfevents.run",
    log:
        f"{LOG_DIR}/events.log",
    resources:
        **small_job(),
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m mpo events --run {params.run:q} --out {output:q} {resources.options}"
        " --log {log:q}"


# Of a run that `collect` could not use, nothing more is asked where the study can do without it.
DAMAGED = noted_damage(STUDY, Path()) if STUDY.allow_missing else {}
SHOWN = [run for run in WANTED[STUDY.study] if run.run_id not in DAMAGED]
EVENTS = [
    rules.events.output[0].format(
        study=run.study, cell=run.cell_id, seed=run.seed, steps=run.total_steps
    )
    for run in SHOWN
    if STUDY.extras.tensorboard
]
FIRST = {(run.env_slug, run.variant): run for run in reversed(SHOWN)}
FILMS = [f"{run.directory}/video.mp4" for run in reversed(FIRST.values()) if STUDY.extras.videos]


# A target of its own, for whoever doubts a study. The sample is spread evenly over the planned runs,
# so that environments and arms differ.
COUNT = min(STUDY.verification.runs, len(STUDY.runs))
SAMPLE = [STUDY.runs[(len(STUDY.runs) - 1) * i // max(1, COUNT - 1)] for i in range(COUNT)]


# It declares no output, so it runs whenever it is asked for: the answer depends on the machine that
# the job lands on, which on a cluster nobody knows beforehand.
rule verify:
    input:
        [f"{run.directory}/{name}" for run in SAMPLE for name in ("run.json", "train.parquet")],
    log:
        f"{STUDY_DIR}/logs/verify.log",
    threads: EXECUTION.threads
    resources:
        **job(8000, 720, f"{DEVICE} {WATCH}"),
        gpu=GPUS,
    params:
        page=f"{STUDY_DIR}/verification.md",
        runs=[run.directory for run in SAMPLE],
        steps=STUDY.verification.steps,
    shell:
        "python -m mpo verify --runs {params.runs:q} --steps {params.steps} {resources.options}"
        " --threads {threads} --out {params.page:q} --log {log:q}"
