"""The benchmarks measure what they claim to measure. No test here asserts a time."""

import math
import re
import sys
from typing import NamedTuple

import pandas as pd
import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as program
from benchmarks import (
    beside,
    checkpoint,
    environments,
    evaluation,
    findings,
    gpu,
    gpu_checks,
    gpu_sharing,
    levers,
    plain,
    precision,
    replay,
    scale,
    sizes,
    startup,
    step,
    study,
    update,
)
from benchmarks.findings import Finding
from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.optimizers import StackedOptimizer
from mpo.seeding import torch_generator
from mpo.study.hyperparameters import Hyperparameters
from mpo.study.plan import Study
from tests import synthetic
from tests.pipeline import TINY

CPU = torch.device("cpu")


def make_agent(size: sizes.Size, steps: int, seeds: int = 1) -> MPOAgent:
    config = sizes.hyperparameters(size, steps)
    return MPOAgent(size.obs, size.action, config, range(seeds), CPU)


@pytest.mark.parametrize("steps", [0, 2, 5])
def test_the_plain_update_is_the_same_mathematics(steps):
    size = sizes.Size("none", 5, 2, (32, 32), 16)
    agent = make_agent(size, steps)
    torch.manual_seed(1)
    made_up = sizes.windows(size, 1, agent.config.window)
    generator = torch.Generator()
    generator.set_state(agent._update.noise[0].get_state())
    learner = plain.PlainLearner(
        agent, lambda n, rows: torch.empty(n, rows, 2).normal_(generator=generator)
    )
    before = learner.policy_parameters()
    for _ in range(5):
        theirs, ours = learner.update(made_up), agent.update(made_up)
        for name, loss in theirs.items():
            assert loss.item() == pytest.approx(ours[name].item(), rel=2e-3, abs=1e-4), name
    copied = plain.PlainLearner(agent, torch.randn)
    moved = (learner.policy_parameters() - before).norm()
    assert moved > 0.01
    apart = (learner.policy_parameters() - copied.policy_parameters()).norm()
    # The critic's first layer has one bias here and two there, each of which moves as fast.
    assert apart < 0.01 * moved


RETRACE = {"retrace": True, "retrace_steps": 4}
COUNTED = {
    "TD": {},
    "more samples for the target": {"retrace_mc_actions": 30},
    "other samples": {"action_samples": 9, "retrace_mc_actions": 3},
    "2-step": {"n_step": 2, "regressed": "first"},
    "2-step, all pairs": {"n_step": 2},
    "2-step, fewer pairs": {"n_step": 2, "regressed": "first", "critic_batch_size": 5},
    "Retrace 2": {"retrace": True, "retrace_steps": 2},
    "Retrace 4": RETRACE,
    "Retrace 4, first pair": RETRACE | {"regressed": "first"},
    "Retrace 4, fewer pairs": RETRACE | {"critic_batch_size": 5, "retrace_mc_actions": 3},
    "uncorrected": RETRACE | {"corrections": "uncorrected"},
    "Peng": RETRACE | {"corrections": "peng"},
    "zero": RETRACE | {"corrections": "zero"},
    "two critics": {"critics": "minimum"},
    "categorical": {"critic": "categorical"},
    "other widths": {"policy_layer_sizes": (16,), "critic_layer_sizes": (32, 16, 64)},
}


@pytest.mark.parametrize("mode", COUNTED)
def test_the_floor_counts_each_product_of_the_update(mode):
    size = sizes.Size("none", 5, 3, (32, 64), 8)
    base = sizes.hyperparameters(size, 0)
    config = base.model_validate(base.model_dump() | COUNTED[mode])
    agent = MPOAgent(size.obs, size.action, config, range(1), CPU)
    made_up = sizes.windows(size, 1, config.window)

    def added(start: torch.Size, x: torch.Size, y: torch.Size, **_: object) -> int:
        return 2 * math.prod(start) * x[-1]

    in_place = {torch.ops.aten.baddbmm_: added}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        agent.update(made_up)
    assert sum(sizes.flops(size, config).values()) == counter.get_total_flops()


def test_a_training_step_is_the_sum_of_its_parts():
    seconds = step.train("Pendulum", 2, 2, steps=30)
    parts = {part: seconds[part] for part in step.PARTS if part != "wrappers"}
    assert all(value > 0 for value in parts.values()), parts
    assert seconds["physics"] < seconds["environment"]
    learning = seconds["target pass"] + seconds["critic"] + seconds["policy"]
    assert learning < seconds["update"]
    whole = seconds["update"] + sum(seconds[name] for name in ("environment", "act", "store"))
    assert whole + seconds["sample"] < seconds["whole"]


def test_the_parts_of_a_training_step_are_shares_of_it(monkeypatch):
    monkeypatch.setattr(step, "CASES", [("Pendulum", 2, 2)])
    (found,), shares = step.measure(steps=30)
    assert found.case == "Pendulum, Retrace 2, 2 seeds" and found.ratio > 1
    assert [*shares.index] == [found.case] and [*shares] == [*step.PARTS, "rest"]
    assert (shares > 0).all(axis=None)
    known = shares["physics"] + shares["target pass"] + shares["critic"] + shares["policy"]
    assert known.item() < 1 / found.ratio < 1 - shares["wrappers"].item()


def test_diagnostics_can_be_taken_out_and_change_nothing_that_is_learnt():
    size = sizes.SIZES["Pendulum"]
    agents, windows = [make_agent(size, 3) for _ in range(2)], sizes.windows(size, 1, 3)
    seen = [set(), set()]
    with levers._removable_diagnostics() as removed:
        for _ in range(2):
            torch.manual_seed(0)
            metrics = [agents[0].update(windows), removed(lambda: agents[1].update(windows))]
            seen = [before | set(now) for before, now in zip(seen, metrics, strict=True)]
    gone = seen[0] - seen[1]
    assert {"trace_length_old", "critic_step_after_copy"} < gone and len(gone) == 8
    assert metrics[0]["critic_rank"].all() and not metrics[1]["critic_rank"].any()
    ours, theirs = (agent.learners.critic_optimizer.flat for agent in agents)
    assert torch.equal(ours, theirs)


def test_errors_of_bfloat16_are_measured_against_float64():
    found = {each.case: each for each in precision.errors(sizes.SIZES["Reacher"], updates=3)}
    targets, weights, *kls = found.values()
    for each in (targets, weights):
        assert each.against == "float32" and 0 < each.reference < 1e-6
        assert 30 < each.ratio < 1e5 and each.value < 1e-2
    assert [each.reference for each in kls] == [1e-2, 1e-5]
    assert all(0 < each.value < each.reference for each in kls)


def test_the_kls_that_are_measured_are_those_of_gaussians():
    def a_pass(mean, stddev):
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        return precision.Pass(one, one, mean * one, stddev * one)

    one, other = torch.distributions.Normal(0.0, 2.0), torch.distributions.Normal(1.0, 2.0)
    wide = torch.distributions.Normal(0.0, 3.0)
    kl = torch.distributions.kl_divergence
    found = precision.gaussian_kls(a_pass(0.0, 2.0), a_pass(1.0, 3.0))
    assert found == pytest.approx((kl(one, other).item(), kl(one, wide).item()))


class Updated(NamedTuple):
    """What an update that is timed was made with, and whether it had its diagnostics."""

    config: Hyperparameters
    seeds: int = 1
    compiled: bool = False
    diagnosed: bool = True


@pytest.fixture
def timed(monkeypatch):
    """For each group of calls that take turns, the update in each of them; None for other work.

    No update is compiled. Each call is made once, and said to take 1 s, 2 s and so on.
    """
    groups, updates = [], []

    class Uncompiled(MPOAgent):
        def __init__(self, *arguments, compile_on_cpu=False, **options):
            super().__init__(*arguments, **options)
            self.made_with = arguments[2], len(arguments[3]), compile_on_cpu

        def update(self, windows):
            metrics = super().update(windows)
            updates.append(Updated(*self.made_with, bool(metrics["critic_rank"].any())))
            return metrics

    def medians(calls, rounds):
        groups.append([])
        for call in calls:
            updates.clear()
            call()
            groups[-1].append(updates[0] if updates else None)
        return [1.0 + place for place in range(len(calls))]

    monkeypatch.setattr(update, "make_agent", Uncompiled)
    for part in (levers, precision):
        monkeypatch.setattr(part, "MPOAgent", Uncompiled)
    for part in (levers, precision, update):
        monkeypatch.setattr(part, "medians", medians)
    return groups


PLAIN = {"floor": (3e3, None), "plain eager form": (4e3, None)}
STACKED = {"floor": (3e3, None), "one seed, compiled": (4e3, None)}
SMALL = PLAIN | {"1.2 ms": (1.2, 1.0)}
ONEDNN = {"floor at oneDNN's rate": (4e3, None), "plain eager form": (5e3, None)}


@pytest.mark.parametrize(
    ("name", "steps", "seeds", "case", "references"),
    [
        ("Pendulum", 0, 1, "Pendulum, TD, 1 seed", SMALL),
        ("Pendulum", 2, 1, "Pendulum, Retrace 2, 1 seed", PLAIN),
        ("Pendulum", 0, 4, "Pendulum, TD, 4 seeds", STACKED),
        ("HalfCheetah", 0, 1, "HalfCheetah, TD, 1 seed", {"floor": (3e3, 1.3)} | ONEDNN),
    ],
)
def test_an_update_is_laid_beside_its_references(timed, name, steps, seeds, case, references):
    """Each reference is (milliseconds of what is timed, goal)."""
    found = update.measure_variant(name, steps, seeds, rounds=1)
    config = sizes.hyperparameters(sizes.SIZES[name], steps)
    (group,) = timed
    assert group[:2] == [Updated(config, seeds), Updated(config, seeds, compiled=True)]
    assert group[2] is None and len(group) == 2 + len(references) - ("1.2 ms" in references)
    assert group[-1] == (Updated(config, compiled=True) if seeds > 1 else None)
    counted = seeds * sum(sizes.flops(sizes.SIZES[name], config).values())
    case += f", {counted / 1e9:.3g} GFLOP"
    assert [(each.case, each.value, each.against, each.at_most) for each in found] == [
        (case + how, milliseconds, against, goal)
        for how, milliseconds in (("", 1e3), (", compiled", 2e3))
        for against, (_, goal) in references.items()
    ]
    for each in found:
        product, _ = references[each.against]
        share = counted / (2 * math.prod(update.PRODUCT)) if "floor" in each.against else 1
        assert each.reference == pytest.approx(product * share)


def test_each_lever_is_laid_beside_an_update_without_it(timed):
    found = [*levers.measure(rounds=1)]
    base = sizes.hyperparameters(levers.FAST, 0)
    cases, groups = [], []
    for compiled, how in ((False, ""), (True, ", compiled")):

        def updated(settings, diagnosed=True, compiled=compiled):
            config = base.model_validate(base.model_dump() | settings)
            return Updated(config, 1, compiled, diagnosed)

        for name, settings in levers.LEVERS.items():
            cases.append((name + how, "an update without it", None))
            groups.append([updated(settings), updated({})])
        for name, settings in levers.DIAGNOSED.items():
            cases.append((f"{name}, with diagnostics{how}", "an update without them", 1.03))
            groups.append([updated(settings), updated(settings, diagnosed=False)])
    assert timed == groups
    assert [(each.case, each.against, each.at_most) for each in found] == cases
    assert {(each.value, each.reference) for each in found} == {(1e3, 2e3)}


def test_an_update_in_bfloat16_is_laid_beside_one_in_float32(timed, monkeypatch):
    monkeypatch.setattr(precision, "NAME", "Reacher")
    *errors, plain, compiled = precision.measure(rounds=1, updates=2)
    assert len(errors) == 4 and {each.unit for each in errors} == {"relative", "nats"}
    case = "Reacher-v5, an update in bfloat16"
    for each, how in ((plain, ""), (compiled, ", compiled")):
        assert (each.case, each.against) == (case + how, "float32")
        assert (each.value, each.reference) == (1e3, 2e3)
    found = [[(each.config.target_precision, each.compiled) for each in group] for group in timed]
    assert found == [[("bfloat16", on), ("float32", on)] for on in (False, True)]


def test_the_replay_that_is_measured_is_full_and_holds_observations_once():
    filled = replay.filled(17, 6, 3000)
    assert filled.size() == 3000
    found = replay.of_size("HalfCheetah", 3000, rounds=2)
    memory = next(each for each in found if each.unit == "GB")
    assert 0.5 < memory.ratio < 0.75


def test_a_checkpoint_is_measured_to_its_resumption():
    found = checkpoint.measure(capacity=3000, steps=3)
    assert len({each.case for each in found}) == 2 and all(each.value > 0 for each in found)


@pytest.mark.slow
@pytest.mark.needs("compiler")
def test_another_library_s_update_is_timed_beside_ours(monkeypatch):
    made = []

    def factory(size):
        made.append(size)
        return lambda: torch.randn(10).sum()

    monkeypatch.setattr(beside, "SIZES", {"Pendulum": sizes.SIZES["Pendulum"]})
    found = beside.measure("theirs", factory, rounds=2)
    assert made == [sizes.SIZES["Pendulum"]]
    assert [(each.case, each.against) for each in found] == [
        ("Pendulum", "theirs"),
        ("Pendulum", "floor"),
        ("Pendulum, compiled", "theirs"),
        ("Pendulum, compiled", "floor"),
        ("Pendulum, theirs", "floor"),
    ]
    assert found[0].ratio > 1 and len({each.reference for each in found}) == 2


@pytest.mark.parametrize("name", ["", "nonsense", "json", "json:nonsense", "no.such:thing"])
def test_a_function_that_is_not_there_is_refused(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--beside", name or "math:pi"])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    error = capsys.readouterr().err
    assert "--beside: expected" in error and (name or "math:pi, a float") in error


@pytest.mark.slow
@pytest.mark.needs("compiler")
def test_the_start_of_a_job_is_measured_with_snakemake_and_with_compiling():
    with_snakemake, alone, new, kept = startup.once()
    assert with_snakemake > alone > 0.1
    assert new > 2 * kept  # the next job reads compiled code from disk


@pytest.mark.slow
def test_planning_and_analysis_are_measured_on_studies_of_the_size_told(tmp_path, monkeypatch):
    planning = scale.plan(tmp_path / "plan", seeds=1)
    assert {each.case for each in planning} == {"planning 40 runs (snakemake -n)"}
    assert {each.unit for each in planning} == {"s", "GB"}
    monkeypatch.setattr(scale, "FIGURES", ("profiles",))
    analysis = scale.analyse(tmp_path / "analysis", seeds=2)
    shares = [each.ratio for each in analysis if each.against == "the whole analysis"]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    assert analysis[0].case == "tables of 80 runs"


def test_an_evaluation_is_timed_side_by_side_and_one_group_after_another(monkeypatch):
    monkeypatch.setattr(evaluation, "CASES", {"InvertedDoublePendulum": 3})
    apart, physics = evaluation.measure(rounds=1)
    assert apart.case == "InvertedDoublePendulum, 3 groups of 10 episodes"
    assert apart.value == physics.value and physics.ratio > 1


def test_ten_environments_are_stepped_in_every_number_of_processes(monkeypatch):
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [0, 1])
    found = environments.measure(rounds=1, steps=5)
    assert [each.case for each in found][:2] == [
        "10 HalfCheetahs, 1 process",
        "10 HalfCheetahs, 2 processes",
    ]
    assert all(each.value > each.reference for each in found) and len(found) == 4
    assert [each.at_most for each in found] == [None, 5.5, None, None]


def test_the_floor_of_a_study_is_that_of_each_run(monkeypatch):
    monkeypatch.setattr(study, "seconds_each", lambda call, times: 2.0)
    monkeypatch.setattr(study, "physics_seconds", lambda env_id: 0.5)
    planned = Study.parse(synthetic.config(["Pendulum-v1"], 1, {"n_step": [1, 2]}))
    names = [run.run_id for run in planned.runs]
    runs = pd.DataFrame({"run_id": names, "updates": [10, 1000]})
    evals = pd.DataFrame({"run_id": names * 2, "length": [7, 9, 7, 9]})
    rate, wanted = 2 * math.prod(update.PRODUCT) / 2.0, 0.0
    for run, updates, tested in zip(planned.runs, (10, 1000), (14, 18), strict=True):
        training = run.spec.training
        size = sizes.SIZES["Pendulum"]._replace(batch=training.batch_size)
        wanted += updates * sum(sizes.flops(size, training).values()) / rate
        wanted += 0.5 * (run.total_steps + tested)
    assert study.floor(planned, runs, evals) == pytest.approx(wanted)


@pytest.mark.slow
def test_a_study_takes_longer_than_its_floors():
    config = TINY | {"environments": ["Pendulum-v1"], "seeds": [0]}
    trainings, jobs, floors = study.measure(config)
    assert trainings.case.startswith("tiny, 4 runs on ")
    assert trainings.ratio > jobs.ratio > 1
    assert floors.ratio > trainings.ratio


FOUND = [
    Finding("update", "Pendulum", 3.0, "floor", 2.0, "ms", 1.3),
    Finding("update", "Pendulum", 3.0, "plain eager form", 6.0, "ms"),
]


def test_a_finding_says_whether_its_goal_is_met():
    assert str(FOUND[0]) == "update: Pendulum: 3 ms, 1.5 x floor (2 ms); goal: at most 1.3, missed"
    assert str(FOUND[0]._replace(value=2.6)).endswith("met")
    assert str(FOUND[1]).endswith("plain eager form (6 ms)")


def test_what_is_kept_are_ratios_with_their_machine(tmp_path):
    shares = pd.DataFrame({"act": [0.25, 0.5], "update": [0.75, 0.5]}, index=["Pendulum", "Ant"])
    findings.write(FOUND, shares, tmp_path)
    kept = pd.read_csv(tmp_path / "ratios.csv")
    assert kept["ratio"].tolist() == [1.5, 0.5]
    page = (tmp_path / "README.md").read_text()
    assert re.search(r"\| update +\| Pendulum +\| floor +\| +1.5 +\| +1.3 +\|", page)
    assert f"torch {torch.__version__}" in page and "shares.png" in page
    assert pd.read_csv(tmp_path / "shares.csv", index_col=0).equals(shares)
    assert (tmp_path / "shares.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["steps"], "received steps; choose from update, step,"), (["step", "--out", "x"], "--out:")],
)
def test_an_unknown_part_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        program.main()
    assert message in capsys.readouterr().err


def same(agent):
    """Leaves the agent as it is."""


def other_parameters(agent):
    agent.learners.critic_optimizer.flat.mul_(1.01)


def unwritten_multipliers(agent):
    agent.learners.alphas.write_gradient = lambda gradient: None


def unwritten_policy(agent):
    given = agent.policy.vjp
    agent.policy.vjp = lambda obs: (*given(obs)[:2], lambda *gradients: None)


@pytest.mark.parametrize(
    "change", [same, other_parameters, unwritten_multipliers, unwritten_policy]
)
def test_the_check_of_a_gpu_finds_what_is_wrong(change, monkeypatch):
    """Both sides are the CPU here."""
    given = gpu_checks.take_over

    def take_over(agent, other):
        given(agent, other)
        change(agent)

    monkeypatch.setattr(gpu_checks, "take_over", take_over)
    (found,) = gpu_checks.check_gradients("Pendulum", "Retrace 2", CPU)
    assert found["size"] == "Pendulum" and found["ok"] == (change is same)
    assert (found["worst"] == 0) == found["ok"]


@pytest.mark.parametrize("equal", [True, False])
def test_the_other_checks_of_a_gpu_find_what_is_wrong(equal, monkeypatch):
    """Both sides are the CPU here."""
    agent, rates, keys = gpu_checks.make_agent, iter([1e-3, 2e-3]), iter(range(4))
    if not equal:
        changes = {
            "make_agent": lambda size, mode, seeds, device, graphs: agent(
                size, {**mode, "gamma": 0.5 + graphs / 4}, seeds, device, graphs
            ),
            "StackedOptimizer": lambda name, parameters, lr: StackedOptimizer(
                name, parameters, next(rates)
            ),
            "torch_generator": lambda seed, stream: torch_generator(next(keys), stream),
        }
        for name, changed in changes.items():
            monkeypatch.setattr(gpu_checks, name, changed)
    found = [
        *gpu_checks.check_graphs({}, CPU),
        *gpu_checks.check_optimizer("adam", CPU),
        *gpu_checks.check_sampling(CPU),
    ]
    assert [row["ok"] for row in found] == [equal] * 3


def test_updates_of_a_device_are_timed_with_their_work():
    found = gpu.time_updates("Pendulum", "Retrace 2", 2, 3, CPU)
    _, mode, seeds, *_ = found.values()
    assert (mode, seeds) == ("Retrace 2", 2)
    agent, _ = gpu_checks.make_agent("Pendulum", gpu_checks.MODES[mode], 1, CPU, graphs=False)
    work = sum(sizes.flops(sizes.SIZES["Pendulum"], agent.config).values())
    assert found["seed_updates_per_s"] == pytest.approx(2 / found["ms"] * 1e3)
    assert found["tflops"] == pytest.approx(work * found["seed_updates_per_s"] / 1e12)
    assert found["act_ms"] > 0 < found["first_s"]


def test_processes_that_share_a_device_are_timed_together():
    found = gpu_sharing.time_processes(2, 2, 2, 3, CPU)
    assert found["processes"] == found["threads"] == found["seeds"] == 2
    # The slowest process counts, so the rate is at most that of the mean step.
    assert 0 < found["seed_steps_per_s"] <= 2 * 2 / (found["step_ms"] / 1e3)
    assert found["study_min"] == pytest.approx(1e7 / found["seed_steps_per_s"] / 60)


def test_a_process_that_ends_early_is_an_error_and_nobody_waits_for_it():
    with pytest.raises(RuntimeError, match="exit codes"):
        gpu_sharing.time_processes(2, 1, 0, 3, CPU)
