# Requires: STUDIES, the settings of a training. Produces: what a study will cost, measured before its first run.
# A target of its own. It declares no output: another calibration may be asked for at any time.
rule calibrate:
    input:
        [f"results/{name}/study.json" for name in STUDIES],
    log:
        f"{STUDY_DIR}/logs/calibrate.log",
    threads: EXECUTION.threads
    resources:
        **job(8000, 720, f"{DEVICE} {WATCH}{COMPILE}{EAGER}"),
        gpu=GPUS,
    params:
        seeds=EXECUTION.seeds_per_job,
    shell:
        "python -m mpo calibrate --study {input:q} --seeds-per-job {params.seeds}"
        " {resources.options} --threads {threads} --log {log:q}"
