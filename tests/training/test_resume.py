"""Trainings that are killed, stopped, shortened or extended equal uninterrupted ones."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import time

import pytest
import torch

from mpo.training import checkpoint
from mpo.training.artifacts import read_critic, read_policies
from tests import processes
from tests.cases import first_of
from tests.requirements import need

CASES = {
    # Episodes have 200 steps, so nearly every kill is within one. The replay wraps around.
    "td": processes.run_spec("Pendulum-v1", replay_size=300),
    # Episodes of unequal length, and windows of three steps.
    "retrace": processes.run_spec(
        "InvertedDoublePendulum-v5", seed=1, retrace=True, retrace_steps=3, optimizer="sgd"
    ),
}
STEPS = 1500


@pytest.mark.parametrize("kills", first_of([5, 11]))
@pytest.mark.parametrize("case", first_of(CASES))
def test_any_number_of_kills_changes_no_bit(tmp_path, case, kills):
    spec, chance = CASES[case], random.Random(case)
    calm = tmp_path / "calm"
    processes.train_here(calm, spec, STEPS)
    folder, steps = tmp_path / "killed", []
    for number in range(kills):
        # It saves all the time, so that many kills fall into the writing of a checkpoint.
        process = processes.train(folder, spec, STEPS, interval=0.01)
        if number < kills // 5:
            time.sleep(chance.uniform(0, 3))  # while it starts
        else:
            processes.wait_until_training(process, processes.resume(folder, spec))
            if number >= 2 * kills // 5:
                processes.wait_for_step(process, processes.resume(folder, spec), steps[-1] + 1)
            time.sleep(chance.uniform(0, 0.15))
        assert process.poll() is None, "it ended before it was killed"
        processes.kill(process)
        steps.append(processes.newest_step(processes.resume(folder, spec)))
    print(f"{case}: killed {kills} times, with checkpoints of steps {steps}")
    assert steps == sorted(steps) and len(set(steps)) > kills // 2
    processes.finish(processes.train(folder, spec, STEPS))
    assert processes.bits(processes.results(folder, spec, STEPS)) == processes.bits(calm)
    record = json.loads((processes.results(folder, spec, STEPS) / "run.json").read_text())
    assert record["provenance"]["resumed"][-1]["env_step"] == steps[-1] < STEPS


STACK = """
import sys, torch
from mpo.trainer import MPOTrainer
torch.set_num_threads(1)
MPOTrainer(
    "InvertedDoublePendulum-v5", 3, torch.device("cpu"), (32,), (32,), 300,
    use_retrace=True, extra_seeds=(4, 5),
).train(600, 100, 16, sys.argv[1], 1, 100, 50, sys.argv[2], 0.01)
"""


@pytest.mark.slow
def test_a_stack_of_seeds_resumes_too(tmp_path):
    def start(name):
        arguments = [str(tmp_path / name / part) for part in ("out", "resume")]
        return subprocess.Popen(
            [processes.sys.executable, "-c", STACK, *arguments], cwd=processes.ROOT
        )

    assert start("calm").wait() == 0
    for pause in (0.1, 0.4, 0.7, 0.3):
        process = start("killed")
        processes.wait_until_training(process, tmp_path / "killed" / "resume" / "seed5")
        time.sleep(pause)
        processes.kill(process)
    assert start("killed").wait() == 0
    for seed in ("seed3", "seed4", "seed5"):
        calm, killed = (
            processes.bits(tmp_path / name / "out" / seed) for name in ("calm", "killed")
        )
        assert killed == calm


@pytest.mark.parametrize("name", first_of(["SIGTERM", "SIGINT", "SIGUSR1"]))
def test_a_signal_stops_with_a_checkpoint_and_the_next_attempt_goes_on(tmp_path, name):
    spec = CASES["retrace"]
    process = processes.train(tmp_path, spec, 100_000)
    processes.wait_until_training(process, processes.resume(tmp_path, spec))
    time.sleep(0.7)
    process.send_signal(getattr(signal, name))
    output = processes.finish(process, code=75)
    step = int(re.search(rf"stopped by {name}: saved at step (\d+)", output)[1])
    assert step > 0 and "Traceback" not in output
    said = processes.status(tmp_path, spec, 100_000)
    assert said["status"] == ("planned" if name == "SIGINT" else "timeout")
    assert f"stopped by {name}" in said["error"] and said["count"] == step
    steps = step // 100 * 100 + 200
    assert f"resumed at step {step}" in processes.finish(processes.train(tmp_path, spec, steps))
    processes.train_here(tmp_path / "calm", spec, steps)
    found = processes.bits(processes.results(tmp_path, spec, steps))
    assert found == processes.bits(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of(["SIGTERM", "SIGINT"]))
def test_a_signal_stops_an_evaluation_which_can_be_made_again(tmp_path, name):
    spec = CASES["td"]
    run = processes.results(tmp_path, spec, 200)
    processes.train_here(run, spec, 200)
    process = processes.evaluate(tmp_path, spec, 200, episodes=1000)
    processes.wait_for_status(process, tmp_path, spec, 200)
    time.sleep(0.7)
    process.send_signal(getattr(signal, name))
    output = processes.finish(process, code=75)
    assert (
        f"stopped by {name}: it starts again from the beginning" in output
        and "Traceback" not in output
    )
    said = processes.status(tmp_path, spec, 200)
    assert said["status"] == ("planned" if name == "SIGINT" else "timeout")
    assert f"stopped by {name}" in said["error"] and said["phase"] == "evaluate"
    assert not list(run.glob("evals*"))
    processes.finish(processes.evaluate(tmp_path, spec, 200, episodes=1))
    assert processes.status(tmp_path, spec, 200)["status"] == "ok" and list(run.glob("evals*"))


@pytest.mark.parametrize("case", first_of(CASES))
def test_budgets_can_be_raised_and_lowered_in_any_order(tmp_path, case):
    for steps in (300, 700, 200, 400, 80):
        if steps == 80:
            steps = 700  # for a second time, with nothing left to train
        short, calm = tmp_path / f"one{steps}", tmp_path / f"all{steps}"
        resume = tmp_path / "resume"
        trained = processes.train_here(short, CASES[case], steps, resume=resume)
        if not calm.exists():
            processes.train_here(calm, CASES[case], steps)
        assert processes.bits(short) == processes.bits(calm)
        assert trained == max(steps, 300 if steps == 300 else 700)
        assert [step for step, _ in read_policies(short / "policies.pt")][-1] == steps


def test_a_budget_between_two_rows_is_extended_as_if_it_had_not_been(tmp_path):
    spec, resume = CASES["td"], tmp_path / "resume"
    for steps in (130, 271, 333):
        short, calm = tmp_path / f"one{steps}", tmp_path / f"all{steps}"
        processes.train_here(short, spec, steps, resume=resume)
        processes.train_here(calm, spec, steps)
        assert processes.bits(short) == processes.bits(calm)
    with pytest.raises(ValueError, match=r"total_steps: .*multiples of snapshot_interval.*271"):
        processes.train_here(tmp_path / "one271", spec, 271, resume=resume)


def test_a_diverged_run_is_extended_and_cut_as_any_other(tmp_path):
    spec = processes.run_spec("Pendulum-v1", q_lr=1e38, optimizer="sgd")
    for steps, status in ((200, "diverged"), (400, "diverged"), (100, "ok")):
        short, calm = tmp_path / f"one{steps}", tmp_path / f"all{steps}"
        processes.train_here(short, spec, steps, resume=tmp_path / "resume")
        processes.train_here(calm, spec, steps)
        found = processes.bits(short)
        assert found == processes.bits(calm)
        assert found["status"] == status


@pytest.mark.slow
def test_the_resume_state_can_be_discarded_at_the_end(tmp_path):
    spec = CASES["td"]
    processes.finish(processes.train(tmp_path, spec, 200, "--discard-resume-state"))
    assert not list(processes.resume(tmp_path, spec).glob("*.pt"))
    assert "resumed" not in processes.finish(processes.train(tmp_path, spec, 300))


@pytest.mark.slow
def test_two_processes_never_train_the_same_run_together(tmp_path):
    spec = CASES["td"]
    first = processes.train(tmp_path, spec, 1200, interval=0.1)
    processes.wait_until_training(first, processes.resume(tmp_path, spec))
    second = processes.train(tmp_path, spec, 1200, study="other")
    outputs = [processes.finish(process) for process in (first, second)]
    assert f"waiting for process {first.pid} on {os.uname().nodename}" in outputs[1]
    assert "resumed at step 1200" in outputs[1]
    first, second = (
        processes.results(tmp_path, spec, 1200, study=name) for name in ("study", "other")
    )
    assert processes.bits(first) == processes.bits(second)


def test_a_hanging_environment_is_ended_and_named(tmp_path):
    spec = processes.run_spec("tests.probes:probe/Hanging-v0")
    output = processes.finish(
        processes.train(tmp_path, spec, 200, "--environment-timeout", 1), code=1
    )
    message = (
        "environment 'tests.probes:probe/Hanging-v0', step 9 of an episode (step) has not answered "
        "for 1 s"
    )
    assert message in output and "time.sleep" in output
    said = processes.status(tmp_path, spec, 200)
    assert (said["status"], said["error"], said["count"]) == ("timeout", message, 18)


@pytest.mark.slow
def test_an_environment_that_hangs_without_letting_go_is_ended_too(tmp_path):
    spec = processes.run_spec("tests.probes:probe/Seized-v0")
    process = processes.train(tmp_path, spec, 200, "--environment-timeout", 1)
    processes.finish(process, code=1)
    log = processes.place(tmp_path, spec, 200).log("train").read_text()
    assert "Timeout" in log and "probes.py" in log
    assert (
        processes.status(tmp_path, spec, 200)["status"] == "running"
    )  # though its process has ended


def test_an_environment_that_raises_is_named_and_what_came_before_is_kept(tmp_path):
    spec = processes.run_spec("tests.probes:probe/Raising-v0")
    output = processes.finish(processes.train(tmp_path, spec, 200, interval=0.001), code=1)
    message = "step 3 of an episode: step raised ZeroDivisionError: a sensor is gone"
    assert message in output and "Traceback" not in output
    said = processes.status(tmp_path, spec, 200)
    assert said["status"] == "failed" and message in said["error"] and said["count"] == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB and a function that remounts it with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True, capture_output=True
        )

    need("mount")
    mount("size=400k")
    yield disk, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_clearly_and_with_space_it_goes_on(tmp_path, small_disk):
    disk, remount = small_disk
    spec = processes.run_spec("Pendulum-v1", policy_layer_sizes=(64,))
    output = processes.finish(processes.train(disk, spec, 1500, interval=0.02), code=1)
    error = r"the checkpoint of step \d+ cannot be written: .*No space left on device.*"
    kept = int(re.search(error + r"continues from the checkpoint of step (\d+)", output)[1])
    assert "Traceback" not in output and not processes.results(disk, spec, 1500).exists()
    remount("size=50m")
    assert f"resumed at step {kept}" in processes.finish(processes.train(disk, spec, 1500))
    processes.train_here(tmp_path / "calm", spec, 1500)
    found = processes.bits(processes.results(disk, spec, 1500))
    assert found == processes.bits(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.parametrize("size", first_of([0, 100, 4000]))
def test_where_no_more_can_be_written_the_log_ends_in_the_reason_and_nothing_else(tmp_path, size):
    """A limit on the size of files, as on a full disk, also holds for the log and for stderr."""
    spec = processes.run_spec("Pendulum-v1")
    processes.finish(processes.train(tmp_path, spec, 200))
    kept = {path: path.read_bytes() for path in processes.resume(tmp_path, spec).glob("*-*.pt")}
    output = tmp_path / "output.txt"
    for shown in (subprocess.PIPE, output.open("w")):
        process = processes.train(tmp_path, spec, 300, output=shown)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
        said = processes.finish(process, code=1) or output.read_text()
        assert "Logging error" not in said and "Traceback" not in said, said
        if shown is subprocess.PIPE:
            assert re.search(r"failed: .*File too large", said), said
    assert kept == {path: path.read_bytes() for path in kept}
    assert "resumed at step 200" in processes.finish(processes.train(tmp_path, spec, 300))


@pytest.mark.slow
def test_a_disk_that_turns_read_only_ends_a_run_clearly(tmp_path, small_disk):
    disk, remount = small_disk
    spec = CASES["td"]
    remount("size=50m")
    processes.finish(processes.train(disk, spec, 200))
    remount("ro")
    output = processes.finish(processes.train(disk, spec, 300, log=False), code=1)
    assert "Read-only file system" in output and "Traceback" not in output
    remount("rw")
    assert "resumed at step 200" in processes.finish(processes.train(disk, spec, 300))


WRONG_STATES = {
    "without the trainer": lambda state: state.pop("trainer"),
    "without the recorder": lambda state: state.pop("recorder"),
    "without the agent": lambda state: state["trainer"].pop("agent"),
    "of a larger network": lambda state: state["trainer"]["agent"].update(
        targets=[torch.ones(1, 9999)] * 2
    ),
    "without an optimizer's state": lambda state: state["trainer"]["agent"]["optimizers"][0].update(
        optimizer={}
    ),
    "of words": lambda state: state["trainer"].update(env_steps="many"),
    "of another replay": lambda state: state["trainer"].update(replay=[1]),
}


@pytest.mark.parametrize("what", WRONG_STATES)
def test_a_state_that_is_not_the_stacks_is_damage(tmp_path, caplog, what):
    """Its file is whole, and has the right identity and checksum."""
    spec = processes.run_spec("Pendulum-v1")
    resume = tmp_path / "resume"
    for steps in (150, 200):
        processes.train_here(tmp_path / "a", spec, steps, resume=resume)
    for name in ("checkpoint-000000000200.pt", "checkpoint-000000000150.pt"):
        content = checkpoint._read(resume / name)
        WRONG_STATES[what](content["state"])
        checkpoint._write(resume / name, content)
        processes.train_here(tmp_path / "b", spec, 200, resume=resume)
        assert f"skipping {name}" in caplog.text
        assert processes.bits(tmp_path / "b") == processes.bits(tmp_path / "a")
        (resume / "checkpoint-000000000200.pt").unlink()
    assert "training starts from step 0" in caplog.text


def test_a_journal_without_transitions_is_damage(tmp_path, caplog):
    spec = processes.run_spec("Pendulum-v1")
    processes.train_here(tmp_path / "a", spec, 200, resume=tmp_path / "resume")
    path = tmp_path / "resume/checkpoint-000000000200.pt"
    content = checkpoint._read(path)
    checkpoint._write(path, content | {"pieces": content["pieces"][1:]})
    processes.train_here(tmp_path / "b", spec, 200, resume=tmp_path / "resume")
    assert f"skipping {path.name}" in caplog.text
    assert processes.bits(tmp_path / "b") == processes.bits(tmp_path / "a")


def test_a_journal_from_before_critics_were_kept_is_extended(tmp_path):
    spec, resume = CASES["td"], tmp_path / "resume"
    processes.train_here(tmp_path / "a", spec, 200, resume=resume)
    path = resume / "checkpoint-000000000200.pt"
    content = checkpoint._read(path)
    for entry in content["pieces"]:
        if entry["kind"] == "records":
            piece = checkpoint._read(resume / entry["file"])
            piece["snapshots"] = [(step, policy) for step, policy, _ in piece["snapshots"]]
            entry["sha256"] = checkpoint._write(resume / entry["file"], piece)
    checkpoint._write(path, content)
    for steps in (300, 200):
        processes.train_here(tmp_path / f"one{steps}", spec, steps, resume=resume)
    processes.train_here(tmp_path / "calm", spec, 300)
    assert processes.bits(tmp_path / "one300") == processes.bits(tmp_path / "calm")
    assert read_critic(tmp_path / "one200/policies.pt") is None
    old, new = (read_policies(tmp_path / name / "policies.pt") for name in ("one200", "a"))
    assert [step for step, _ in old] == [step for step, _ in new] == [0, 100, 200]
