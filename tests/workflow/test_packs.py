"""Seeds that share a process have the bits, files and failures of seeds trained alone."""

import json
import random
import re
import shutil
import time
from pathlib import Path

import pytest
import torch

from mpo.study.packs import packs
from mpo.study.paths import Place
from mpo.training import loop
from mpo.training.stack import Stack
from tests import processes, synthetic
from tests.cases import first_of
from tests.pipeline import changed, planned, project, snakemake

SPEC = processes.run_spec(
    "InvertedDoublePendulum-v5",
    replay_size=300,
    retrace=True,
    retrace_steps=3,
    **processes.STACKABLE,
)

STEPS = 600
SEEDS = (3, 4, 5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The bits of each seed trained alone, at two budgets."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for seed in SEEDS:
        for steps in (STEPS, STEPS + 300):
            found[seed, steps] = bits_alone(folder, SPEC, steps, seed)
    assert len({bits["train"] for bits in found.values()}) == len(found)
    return found


def bits_alone(folder, spec, steps, seed):
    """Trains a seed alone in this process, from its last checkpoint if any; returns its bits."""
    directory = processes.results(folder, spec, steps, seed)
    processes.train_here(directory, spec, steps, seed, processes.resume(folder, spec, seed))
    return processes.bits(directory)


def bits(folder, steps=STEPS, seeds=SEEDS):
    return {
        (seed, steps): processes.bits(processes.results(folder, SPEC, steps, seed))
        for seed in seeds
    }


def of(alone, steps=STEPS, seeds=SEEDS):
    return {(seed, steps): alone[seed, steps] for seed in seeds}


def record(folder, seed, steps=STEPS):
    return json.loads((processes.results(folder, SPEC, steps, seed) / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("company", first_of([[(3, 4), (5,)], [(3, 4, 5)], [(5, 3, 4)]]))
def test_a_seed_leaves_the_same_bits_in_any_company(tmp_path, alone, company):
    for seeds in company:
        processes.finish(processes.train(tmp_path, SPEC, STEPS, seeds=seeds))
        assert [record(tmp_path, seed)["stacked"] for seed in seeds] == [len(seeds)] * len(seeds)
    assert bits(tmp_path) == of(alone)


def test_each_seed_of_a_pack_has_its_own_status_log_and_state(tmp_path):
    process = processes.train(tmp_path, SPEC, 100_000, seeds=SEEDS, interval=0.05)
    for seed in SEEDS:
        processes.wait_for_step(process, processes.resume(tmp_path, SPEC, seed), 1)
        said = processes.status(tmp_path, SPEC, 100_000, seed)
        assert said["status"] == "running" and said["pid"] == process.pid
        assert json.loads(said["identity"])["seed"] == seed
    process.terminate()
    output = processes.finish(process, code=75)
    step = int(re.search(r"stopped by SIGTERM: saved at step (\d+)", output)[1])
    for seed in SEEDS:
        assert processes.status(tmp_path, SPEC, 100_000, seed)["status"] == "timeout"
        log = processes.place(tmp_path, SPEC, 100_000, seed).log("train").read_text()
        assert "environment/arm seed 3+4+5: 0/100000 steps" in log and "stopped by SIGTERM" in log
        assert processes.newest_step(processes.resume(tmp_path, SPEC, seed)) == step


@pytest.mark.slow
@pytest.mark.parametrize(
    "company",
    [
        [SEEDS, (3, 4), (4, 5), SEEDS],
        [SEEDS, SEEDS, (3, 4), (4, 5), SEEDS, (5, 3), SEEDS, SEEDS],
    ],
)
def test_packs_that_are_killed_anywhere_and_packed_anew_end_in_the_same_bits(
    tmp_path, alone, company
):
    chance, further = random.Random("packs"), 320 // len(company)
    steps, resumes = [], [processes.resume(tmp_path, SPEC, seed) for seed in SEEDS]
    for number, seeds in enumerate(company):
        process = processes.train(tmp_path, SPEC, STEPS, seeds=seeds, interval=0.01)
        own = [processes.resume(tmp_path, SPEC, seed) for seed in seeds]
        processes.wait_until_training(process, own[-1])
        if number:
            behind = min(own, key=processes.newest_step)
            processes.wait_for_step(process, behind, processes.newest_step(behind) + further)
        time.sleep(chance.uniform(0, 0.03))
        processes.kill(process)
        steps.append([processes.newest_step(resume) for resume in resumes])
    print(f"killed with checkpoints of steps {steps}")
    assert len({step for found in steps for step in found}) > len(company) // 2
    assert any(len(set(found)) > 1 for found in steps) and max(steps[-1]) > 150
    processes.finish(processes.train(tmp_path, SPEC, STEPS, seeds=SEEDS))
    assert bits(tmp_path) == of(alone)


@pytest.mark.slow
def test_a_kill_between_two_seeds_checkpoints_is_made_up_for(tmp_path, alone):
    """The seeds are then at different steps. Those behind catch up in a stack of their own."""
    for seed, steps in ((3, 300), (4, 100), (5, 100)):
        bits_alone(tmp_path, SPEC, steps, seed)
    output = processes.finish(processes.train(tmp_path, SPEC, STEPS, seeds=SEEDS))
    assert "seed 4+5: 300/300 steps" in output
    assert re.findall(r"resumed at step (\d+)", output) == ["100", "300"]
    assert bits(tmp_path) == of(alone)
    assert record(tmp_path, 3)["stacked"] != record(tmp_path, 4)["stacked"]


@pytest.mark.slow
def test_damage_to_one_seed_costs_the_others_nothing(tmp_path, alone):
    process = processes.train(tmp_path, SPEC, STEPS, seeds=SEEDS, interval=0.05)
    processes.wait_for_step(process, processes.resume(tmp_path, SPEC, 5), 100)
    processes.kill(process)
    for file in processes.resume(tmp_path, SPEC, 4).glob("checkpoint-*"):
        file.write_bytes(b"")
    output = processes.finish(processes.train(tmp_path, SPEC, STEPS, seeds=SEEDS))
    assert "training starts from step 0" in output
    assert bits(tmp_path) == of(alone)


@pytest.mark.slow
def test_a_pack_goes_on_to_a_longer_budget_beside_a_seed_that_is_new(tmp_path, alone):
    processes.finish(processes.train(tmp_path, SPEC, STEPS, seeds=(3, 4)))
    longer = STEPS + 300
    output = processes.finish(processes.train(tmp_path, SPEC, longer, seeds=SEEDS))
    assert f"resumed at step {STEPS}" in output
    assert bits(tmp_path, longer) == of(alone, longer)
    # Back to the shorter budget, which two of three seeds have finished; nothing is trained.
    for seed in SEEDS:
        shutil.rmtree(processes.results(tmp_path, SPEC, longer, seed).parent)
    processes.finish(processes.train(tmp_path, SPEC, STEPS, seeds=SEEDS))
    assert bits(tmp_path) == of(alone)


@pytest.mark.slow
def test_what_is_done_is_written_without_waiting_for_what_is_not(tmp_path, alone):
    bits_alone(tmp_path, SPEC, STEPS, 4)
    shutil.rmtree(processes.results(tmp_path, SPEC, STEPS, 4))
    process = processes.train(tmp_path, SPEC, STEPS, seeds=SEEDS, interval=0.01)
    output = processes.finish(process)
    assert "seed 3+5: 600/600 steps" in output and "seed 3+4" not in output
    assert bits(tmp_path) == of(alone)


@pytest.mark.slow
@pytest.mark.parametrize("q_lr", [1e38, 1e30])
def test_seeds_that_diverge_do_so_as_they_would_alone(tmp_path, q_lr):
    spec = SPEC.model_copy(
        update={"training": SPEC.training.model_copy(update={"q_lr": q_lr, "optimizer": "sgd"})}
    )
    processes.finish(processes.train(tmp_path, spec, 200, seeds=SEEDS))
    processes.finish(processes.train(tmp_path, spec, 300, seeds=SEEDS))
    for seed in SEEDS:
        found = processes.bits(processes.results(tmp_path, spec, 300, seed))
        assert found == bits_alone(tmp_path / "alone", spec, 300, seed)
        assert found["status"] == "diverged"


def trainer(*seeds):
    return Stack(SPEC.env_id, SPEC.training, seeds, torch.device("cpu"))


def poison(network, index):
    with torch.no_grad():
        network.head.bias[index].fill_(float("nan"))


@pytest.mark.slow
@pytest.mark.parametrize("network", first_of(["critic", "policy"]))
def test_one_seed_that_diverges_leaves_its_neighbours_and_is_left_itself(tmp_path, network):
    """A bad action is found at once, a bad parameter at the end of a logging interval.

    A seed trained alone stops at the same step.
    """
    stack, single = trainer(3, 4, 5), trainer(4)
    poison(getattr(stack.agent, network), 1)
    poison(getattr(single.agent, network), 0)
    out, resume = ([tmp_path / f"{name}{seed}" for seed in SEEDS] for name in ("out", "resume"))
    loop.train(stack, SPEC.cell, 250, out, resume)
    loop.train(trainer(*SEEDS), SPEC.cell, 400, out, resume)
    loop.train(single, SPEC.cell, 400, [tmp_path / "single"])
    bad = processes.bits(out[1])
    assert bad == processes.bits(tmp_path / "single") and bad["status"] == "diverged"
    for seed, directory in ((3, out[0]), (5, out[2])):
        loop.train(trainer(seed), SPEC.cell, 400, [tmp_path / f"alone{seed}"])
        assert processes.bits(directory) == processes.bits(tmp_path / f"alone{seed}")


def test_a_failing_environment_fails_its_own_seed_alone(tmp_path):
    """The other seeds of the pack are finished."""
    spec = processes.run_spec("tests.probes:probe/Unlucky-v0")
    output = processes.finish(processes.train(tmp_path, spec, 200, seeds=(1, 2, 3)), code=1)
    assert "each seed continues alone from its last checkpoint" in output
    assert "1 of 3 runs failed" in output and "Traceback" not in output
    said = {seed: processes.status(tmp_path, spec, 200, seed) for seed in (1, 2, 3)}
    (unlucky,) = (seed for seed, word in said.items() if word["status"] == "failed")
    assert "step raised RuntimeError: no luck" in said[unlucky]["error"]
    for seed in {1, 2, 3} - {unlucky}:
        assert said[seed]["status"] == "ok"
        found = processes.bits(processes.results(tmp_path, spec, 200, seed))
        assert found == bits_alone(tmp_path / "alone", spec, 200, seed)
    assert not processes.results(tmp_path, spec, 200, unlucky).exists()


def test_a_place_reads_back_and_another_directory_is_refused():
    place = Place("s", "dm_control-walker-walk-v0", "retrace-on_optimizer-adam", 7, 400)
    assert Place.parse(place.directory) == place
    assert Place.parse(Path("/data") / place.directory).results == Path("/data/results")
    for wrong in ("out", "results/s/runs/e/v/seed7", "results/s/runs/e/v/seed7/step4/x"):
        message = f"a run's directory has the form results/STUDY/.*{wrong}"
        with pytest.raises(ValueError, match=message):
            Place.parse(Path(wrong))


def pack_of(study, root, size=2):
    execution = study.execution.model_copy(update={"seeds_per_job": size})
    return packs(study.model_copy(update={"execution": execution}), study.runs, root)


def test_packs_are_chunks_of_what_is_not_trained(tmp_path):
    study = synthetic.plan(environments=2, seeds=5, axes={})
    cells = list(dict.fromkeys(run.cell_id for run in study.runs))
    assert pack_of(study, tmp_path, 1) == {}
    assert pack_of(study, tmp_path) == {
        ((0, 1), 10_000): cells,
        ((2, 3), 10_000): cells,
    }
    assert pack_of(study, tmp_path, 9) == {((0, 1, 2, 3, 4), 10_000): cells}
    synthetic.write_runs(study, tmp_path)
    assert pack_of(study, tmp_path) == {}
    for index in (0, 1, 2, 7):  # seeds 0, 1 and 2 of the first cell, seed 2 of the second
        shutil.rmtree(tmp_path / study.runs[index].directory)
    assert pack_of(study, tmp_path) == {((0, 1), 10_000): cells[:1]}
    assert pack_of(study, tmp_path, 5) == {((0, 1, 2), 10_000): cells[:1]}


def test_results_of_another_spec_are_to_be_trained_again(tmp_path):
    study = synthetic.plan(environments=1, seeds=2, axes={})
    synthetic.write_runs(study, tmp_path)
    for run in study.runs:
        path = tmp_path / run.directory / "run.json"
        path.write_text(path.read_text().replace('"gamma": 0.99', '"gamma": 0.5'))
    assert [pack.seeds for pack in pack_of(study, tmp_path)] == [(0, 1)]


def test_runs_that_have_failed_do_not_hold_up_their_neighbours(tmp_path):
    study = synthetic.plan(environments=1, seeds=4, axes={})
    synthetic.write_status(study.runs[1], tmp_path)
    assert [pack.seeds for pack in pack_of(study, tmp_path, 4)] == [(0, 2, 3)]
    for run in study.runs:  # all have failed, as after a kill
        synthetic.write_status(run, tmp_path)
    assert [pack.seeds for pack in pack_of(study, tmp_path, 4)] == [(0, 1, 2, 3)]


UNLUCKY = """
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Unlucky(PendulumEnv):
    def reset(self, *, seed=None, options=None):
        self.unlucky = seed is not None and seed % 64 == 47
        return super().reset(seed=seed, options=options)
    def step(self, action):
        if self.unlucky:
            raise RuntimeError("no luck")
        return super().step(action)

gym.register("Unlucky-v0", Unlucky, max_episode_steps=200)
"""


@pytest.mark.slow
def test_one_bad_seed_of_a_pack_holds_up_nobody_for_long(tmp_path):
    folder = project(tmp_path)
    (folder / "unlucky.py").write_text(UNLUCKY)
    config = study(3) | {"environments": ["unlucky:Unlucky-v0"]}
    first = snakemake(folder, "--cores", "2", "--retries", "0", config=config)
    assert first.returncode != 0 and "1 of 3 runs failed" in first.stderr
    page = (folder / "results/tiny/failures.md").read_text()
    assert "6 runs of study tiny: 4 planned, 2 failed." in page and "no luck" in page
    # Now no pack mixes runs that failed with runs that did not.
    assert snakemake(folder, "--cores", "2", "--retries", "0", config=config).returncode != 0
    page = (folder / "results/tiny/failures.md").read_text()
    assert "6 runs of study tiny: 4 ok, 2 failed." in page
    assert "seed0: failed" in page
    without = config | {"allow_missing": True}
    assert "train" not in "".join(planned(folder, without))


WIDE = {"policy_layer_sizes": [32], "critic_layer_sizes": [32]}


def study(size, seeds=(0, 1, 2), **sections):
    return changed(
        environments=["Pendulum-v1"],
        seeds=list(seeds),
        axes={"retrace": [True]},
        training=WIDE,
        execution={"seeds_per_job": size},
        **sections,
    )


CELLS = [f"Pendulum-v1/retrace-on_optimizer-{name}" for name in ("adam", "sgd")]


def files(folder, seeds=(0, 1, 2), steps=400):
    """Returns the bits of every run, and when its files were written."""
    found = {}
    for cell in CELLS:
        for seed in seeds:
            directory = folder / f"results/tiny/runs/{cell}/seed{seed}/step{steps}"
            times = [path.stat().st_mtime_ns for path in sorted(directory.iterdir())]
            assert len(times) == 5
            found[cell, seed] = processes.bits(directory), times
    return found


TABLES = ["results/tiny/tables/evals.csv"]
"""The target of the studies here. Figures are left out: they depend on the tables alone."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A study in packs of two, up to its tables."""
    folder = project(tmp_path_factory.mktemp("packed"))
    done = snakemake(folder, "--cores", "2", *TABLES, config=study(2))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"rule train_0_1_to_400:", done.stderr)) == 2
    assert len(re.findall(r"rule train:", done.stderr)) == 2
    return folder


@pytest.mark.slow
def test_a_study_in_packs_has_the_bits_of_one_without(packed, tmp_path):
    folder = project(tmp_path)
    done = snakemake(folder, "--cores", "2", *TABLES, config=study(1))
    assert done.returncode == 0, done.stderr
    single, pack = files(folder), files(packed)
    assert {run: bits for run, (bits, _) in single.items()} == {
        run: bits for run, (bits, _) in pack.items()
    }
    for size in (2, 3, 1):
        assert planned(folder, study(size), TABLES) == {}
    assert (folder / "results/tiny/tables/evals.csv").read_bytes() == (
        packed / "results/tiny/tables/evals.csv"
    ).read_bytes()


@pytest.mark.slow
def test_packing_in_another_way_redoes_nothing(packed):
    for size in (1, 3, 2):
        assert planned(packed, study(size), TABLES) == {}


@pytest.mark.slow
def test_a_seed_more_trains_only_itself_and_leaves_the_others_files(packed):
    before = files(packed)
    more = study(2, seeds=(0, 1, 2, 3))
    found = planned(packed, more)
    assert found["train"] == 2 and found["evaluate"] == 2
    assert not [name for name in found if name.startswith("train_")]
    pair = planned(packed, study(2, seeds=(0, 1, 2, 3, 4, 5)))
    assert (pair["train"], pair["train_4_5_to_400"], pair["evaluate"]) == (2, 2, 6)
    targets = [f"results/tiny/runs/{cell}/seed3/step400/evals.json" for cell in CELLS]
    done = snakemake(packed, "--cores", "2", *targets, config=more)
    assert done.returncode == 0, done.stderr
    assert files(packed) == before and len(files(packed, seeds=(3,))) == 2


@pytest.mark.slow
def test_a_pack_is_extended_by_snakemake_and_a_lost_result_is_no_retraining(packed):
    longer = study(3, schedule={"total_steps": 600})
    found = planned(packed, longer)
    assert found["train_0_1_2_to_600"] == 2 and found["evaluate"] == 6 and "train" not in found
    targets = [f"results/tiny/runs/{CELLS[0]}/seed1/step600/evals.json"]
    done = snakemake(packed, "--cores", "2", *targets, config=longer)
    assert done.returncode == 0 and "resumed at step 400" in done.stderr, done.stderr
    steps = packed / f"results/tiny/runs/{CELLS[0]}"
    before = {seed: processes.bits(steps / f"seed{seed}/step600") for seed in (0, 1, 2)}
    # As after a kill between the writing of two seeds' files.
    lost = [steps / "seed2/step600/run.json", steps / "seed0/step600/policies.pt"]
    for path in lost:
        path.unlink()
    found = planned(packed, longer)
    assert (found["train_0_1_2_to_600"], found["train_0_2_to_600"]) == (1, 1)
    targets = [str(path.relative_to(packed)) for path in lost]
    done = snakemake(packed, "--cores", "2", *targets, config=longer)
    assert done.returncode == 0 and "resumed at step 600" in done.stderr, done.stderr
    assert "rule train_0_2_to_600:" in done.stderr
    assert {seed: processes.bits(steps / f"seed{seed}/step600") for seed in (0, 1, 2)} == before
