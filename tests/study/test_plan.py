import copy
import json
from pathlib import Path

import pytest
import yaml

from mpo import EVALUATION_VERSION
from mpo.study.config import ConfigError, canonical_json
from mpo.study.labels import arm_label
from mpo.study.plan import Study
from mpo.study.specs import EvaluationSpec, RunSpec

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
SMALL = {
    "study": "small",
    "environments": ["Pendulum-v1", {"id": "dm_control/reacher-easy-v0", "gamma": 0.9}],
    "seeds": [0, 1],
    "axes": {"retrace": [False, True], "optimizer": ["adam", "sgd"]},
    "schedule": {"total_steps": 600, "snapshot_interval": 300, "log_interval": 100},
    "training": {
        "policy_layer_sizes": [16],
        "critic_layer_sizes": [16],
        "replay_size": 1000,
        "update_after": 100,
        "batch_size": 16,
    },
    "optimizers": {"sgd": {"policy_lr": 0.02}},
}


EVALUATION = {"online_episodes": 10, "final_episodes": 100}


def changed(path, value):
    """SMALL with one value set, at a path like training.gamma."""
    config = copy.deepcopy(SMALL)
    *parents, key = path.split(".")
    section = config
    for name in parents:
        section = section.setdefault(name, {})
    section[key] = value
    return config


def test_the_default_study_is_whole():
    study = Study.parse(DEFAULT)
    assert len(study.runs) == 3 * 2 * 2 * 3
    assert len({run.spec.identity for run in study.runs}) == len(study.runs)


def test_every_combination_is_planned_once_at_a_readable_place():
    runs = Study.parse(SMALL).runs
    assert len({run.run_id for run in runs}) == len(runs) == 2 * 4 * 2
    assert runs[0].directory == Path(
        "results/small/runs/Pendulum-v1/retrace-off_optimizer-adam/seed0/step600"
    )
    assert runs[-1].run_id == "dm_control-reacher-easy-v0/retrace-on_optimizer-sgd/seed1"
    assert runs[-1].arm == {"retrace": True, "optimizer": "sgd"}


def test_overrides_reach_only_their_runs():
    for run in Study.parse(SMALL).runs:
        training = run.spec.training
        assert training.gamma == (0.9 if "reacher" in run.run_id else 0.99)
        assert training.policy_lr == (0.02 if training.optimizer == "sgd" else 3e-4)


def test_an_axis_wins_over_an_optimizers_value_and_is_named_only_where_it_differs():
    runs = Study.parse(changed("axes.policy_lr", [3e-4, 1e-3])).runs
    variants = {run.variant for run in runs}
    assert {v for v in variants if v.startswith("retrace-off")} == {
        "retrace-off_optimizer-adam",
        "retrace-off_optimizer-adam_policy_lr-0.001",
        "retrace-off_optimizer-sgd_policy_lr-0.0003",
        "retrace-off_optimizer-sgd_policy_lr-0.001",
    }
    assert all(run.spec.training.policy_lr == run.arm["policy_lr"] for run in runs)


def test_a_new_axis_leaves_the_runs_at_the_base_value_as_they_were():
    config = changed("environments", ["Pendulum-v1"])
    before = {run.run_id: run.spec for run in Study.parse(config).runs}
    config["axes"]["gamma"] = [0.99, 0.9]
    after = {run.run_id: run.spec for run in Study.parse(config).runs}
    assert before.items() <= after.items() and len(after) == 2 * len(before)


def test_the_order_of_axes_moves_no_run():
    """`study.json` keeps a config with its keys sorted, and must plan the same paths."""
    config = changed("axes.n_step", [1, 3]) | {"seeds": [0]}
    config["axes"] |= {"batch_size": [8, 16], "policy_lr": [3e-4, 1e-3]}
    paths = [run.directory for run in Study.parse(config).runs]
    assert any("n_step" in str(path) and "policy_lr" in str(path) for path in paths)
    written = json.loads(canonical_json(config))
    assert list(written["axes"]) != list(config["axes"])
    assert [run.directory for run in Study.parse(written).runs] == paths


def test_widths_can_be_an_axis():
    runs = Study.parse(changed("axes.policy_layer_sizes", [[16], [32, 32]])).runs
    assert "retrace-off_optimizer-adam_policy_layer_sizes-32x32" in {run.variant for run in runs}


def test_the_budget_is_in_the_path_and_not_in_the_identity():
    short, long = (Study.parse(changed("schedule.total_steps", n)).runs[0] for n in (600, 1200))
    assert short.spec.identity == long.spec.identity
    assert short.directory.parent == long.directory.parent and short.directory != long.directory


def test_an_identity_is_canonical_and_reads_back():
    run = Study.parse(SMALL).runs[0]
    again = Study.parse(json.loads(json.dumps(SMALL, sort_keys=True))).runs[0]
    assert run.spec.identity == again.spec.identity
    assert RunSpec.parse(run.spec.identity) == run.spec
    swapped = Study.parse(changed("training", {**SMALL["training"], "policy_lr": 1e-3})).runs[0]
    assert swapped.spec.identity != run.spec.identity


def test_a_cap_on_episodes_is_part_of_evaluations_only_where_it_is_set():
    plain, capped = Study.parse(SMALL), Study.parse(changed("evaluation.max_episode_steps", 500))
    environment = plain.environments[0]
    for study, cap in ((plain, {}), (capped, {"max_episode_steps": 500})):
        evaluation = {"evaluation_version": EVALUATION_VERSION, **EVALUATION, **cap}
        assert study.evaluation_spec.identity == canonical_json(evaluation)
        random = {
            "evaluation_version": EVALUATION_VERSION,
            "env_id": environment.id,
            "episodes": study.statistics.random_episodes,
            **cap,
        }
        assert study.random_spec(environment).identity == canonical_json(random)
        assert study.model_dump()["evaluation"] == {**EVALUATION, **cap}
    assert plain.runs == capped.runs


def test_a_spec_of_another_version_is_refused():
    spec = json.loads(Study.parse(SMALL).runs[0].spec.identity) | {"algorithm_version": 0}
    with pytest.raises(ConfigError, match="algorithm_version.*received 0"):
        RunSpec.parse(json.dumps(spec))
    with pytest.raises(ConfigError, match="evaluation_version.*received 0"):
        EvaluationSpec.parse('{"evaluation_version": 0}')


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "training.gama",
            0.9,
            r"training: unknown key 'gama' with value 0.9; did you mean 'gamma'",
        ),
        ("sedes", [1], r"unknown key 'sedes' with value \[1\]; did you mean 'seeds'\? choose from"),
        ("training.totl_steps", 5, "training: .*'totl_steps' with value 5; did you mean sched"),
        (
            "training.total_steps",
            5,
            r"you mean schedule.total_steps\? In training, choose from pol",
        ),
        ("schedule.q_lr", 0.1, r"schedule: unknown key 'q_lr' .*you mean training.q_lr\? In sched"),
        ("training.q_rl", 0.1, r"training: unknown key 'q_rl' .*did you mean 'q_lr'\? choose from"),
        ("execution.gpu", 1, r"execution: unknown key 'gpu' .* choose from device, cuda_graphs"),
        ("axes.gama", [0.9], r"axes: unknown key 'gama' with value \[0.9\]; did you mean 'gamma'"),
        ("axes.total_steps", [1], r"axes: unknown key 'total_steps'"),
        ("optimizers.sgd.lr", 1.0, r"optimizers: sgd: unknown key 'lr' with value 1.0"),
        (
            "optimizers.sdg",
            {},
            r"optimizers.*'adam', 'adamw', 'sgd', 'rmsprop' or 'lion', received 'sdg'",
        ),
        ("environments", [{"id": "A-v0", "gama": 1}], r"environments.0: unknown key 'gama'"),
        ("training.gamma", 1.01, r"training.gamma: .*less than or equal to 1, received 1.01"),
        ("training.gamma", -0.1, r"training.gamma: .*greater than or equal to 0, received -0.1"),
        ("training.gamma", "high", r"training.gamma: .*valid number.* received 'high'"),
        ("training.gamma", float("nan"), r"training.gamma: .*finite number, received nan"),
        ("training.batch_size", True, r"training.batch_size: expected a number, received True"),
        ("training.batch_size", 1001, r"training: batch_size .* replay_size, received 1001 > 1000"),
        ("training.policy_lr", 0, r"training.policy_lr: .*greater than 0, received 0"),
        ("training.policy_layer_sizes", [], r"training.policy_layer_sizes: .*received \[\]"),
        (
            "training.n_step",
            101,
            r"n_step must not exceed update_after or replay_size, received 101",
        ),
        ("training.optimizer", "adm", r"training.optimizer: .*'rmsprop' or 'lion', received 'adm'"),
        (
            "training.retrace_steps",
            1,
            r"retrace-on.*: retrace_steps must be at least 2.*received 1",
        ),
        (
            "optimizers.sgd.policy_lr",
            -1,
            r"optimizers.sgd.policy_lr: .*greater than 0, received -1",
        ),
        ("seeds", 3, r"^seeds: expected a list, received 3$"),
        ("seeds", "0, 1", r"^seeds: expected a list, received '0, 1'$"),
        ("environments", "A-v0", r"^environments: expected a list, received 'A-v0'$"),
        ("environments", [["A-v0"]], r"^environments.0: expected a mapping, received \['A-v0'\]$"),
        ("axes", None, r"^axes: expected a mapping, received None$"),
        ("axes", ["gamma"], r"^axes: expected a mapping, received \['gamma'\]$"),
        ("training", 5, r"^training: expected a mapping, received 5$"),
        ("schedule.total_steps", "1e6", r"whole number, written out as 1000000, received '1e6'$"),
        ("schedule.total_steps", "1e400", r"schedule.total_steps: .*integer.*, received '1e400'$"),
        ("trianing", ["x" * 9999], r"unknown key 'trianing' with value \['x{58}\.\.\. \(10003 ch"),
        ("seeds", [], r"seeds: .*at least 1 item.*received \[\]"),
        ("seeds", [3, 3], r"seeds: duplicate seed 3"),
        ("seeds", [-1], r"seeds.0: .*received -1"),
        ("environments", [], r"environments: .*at least 1 item"),
        ("environments", ["A-v0", "A-v0"], r"environments: duplicate environment 'A-v0'"),
        ("environments", ["A-v0; rm -rf x"], r"environments.0.id: .*received 'A-v0; rm -rf x'"),
        ("environments", ["../up-v0"], r"environments.0.id"),
        ("environments", ["$(x)-v0"], r"environments.0.id"),
        (
            "environments",
            [{"id": "A-v0", "gamma": 2}],
            r"environments \(A-v0\).gamma: .*received 2",
        ),
        (
            "environments",
            [{"id": "A-v0", "retrace": True}],
            r"retrace: an axis cannot be overridden, received True; .*\[False, True\]",
        ),
        (
            "optimizers.sdg",
            {"policy_lr": 1e-3},
            "optimizers.sdg: without `class`, or `matrices` and `rest`, expected 'adam'",
        ),
        (
            "optimizers.adam",
            {"class": "torch.optim.NAdam"},
            "optimizers.adam: 'adam' is a built-in .*received {'class': 'torch.optim.NAdam'}; give",
        ),
        (
            "optimizers.mine",
            {"class": "NAdam"},
            "^optimizers.mine.class: expected an import path.*'NAdam'",
        ),
        ("optimizers.mine", {"class": "a.B-C"}, "mine.class: expected an import path.*'a.B-C'"),
        ("optimizers.mine", {"class": 3}, "mine.class: .*valid string, received 3"),
        ("optimizers.a/b", {"class": "a.B"}, "optimizers.a/b: expected a name of letters"),
        (
            "optimizers.mine",
            {"class": "a.B", "matrices": {"class": "adam"}},
            "optimizers.mine: expected `class`.* or both `matrices` and `rest`, received class, m",
        ),
        ("optimizers.mine", {"matrices": {"class": "a.B"}}, "mine: expected .*received matrices"),
        (
            "optimizers.mine",
            {"matrices": None, "rest": {"class": "adam"}},
            "^optimizers.mine.matrices: expected a mapping with `class`, received None",
        ),
        (
            "optimizers.mine",
            {"matrices": {"class": "adam"}, "rest": None},
            "^optimizers.mine.rest: expected a mapping with `class`, received None",
        ),
        ("optimizers.lion", {"q_lr": float("inf")}, "optimizers.lion.q_lr: .*received inf"),
        ("optimizers.lion", {"q_lr": "fast"}, "optimizers.lion.q_lr: .*received 'fast'"),
        ("optimizers.mine", {"settings": {}}, "mine: expected `class`.*received settings"),
        (
            "optimizers.mine",
            {"matrices": {"class": "a.B", "lr": 1}, "rest": {"class": "adam"}},
            "mine.matrices: unknown key 'lr' with value 1; .*choose from class, settings, lr_f",
        ),
        (
            "optimizers.mine",
            {"matrices": {"class": "a.B", "lr_factor": 0}, "rest": {"class": "adam"}},
            "mine.matrices.lr_factor: .*greater than 0, received 0",
        ),
        (
            "optimizers.mine",
            {"class": "a.B", "settings": {"lr": 1}},
            "mine.settings: 'lr' cannot be set here: the learning rates are policy_lr and q_lr",
        ),
        (
            "optimizers.mine",
            {"class": "a.B", "settings": {"a b": 1}},
            "names of arguments, .*'a b'",
        ),
        (
            "optimizers.mine",
            {"class": "a.B", "settings": {"x": float("inf")}},
            "mine.settings: x: expected a number up to",
        ),
        (
            "optimizers.mine",
            {"class": "sgd", "settings": {"momentum": 0.5}},
            "mine.*settings: those of the built-in 'sgd' are keys of `training`, .*'momentum': 0.5",
        ),
        ("optimizers.mine", {"class": "a.B", "polcy_lr": 1}, "'polcy_lr' with .* 'policy_lr'"),
        (
            "training.optimizer_definition",
            {"class": "a.B"},
            "training: optimizer_definition cannot be set here, `optimizers` says it; received",
        ),
        ("axes.optimizer_definition", [None], "axes: unknown key 'optimizer_definition'"),
        (
            "bundles",
            [{"name": "a", "optimizer_definition": None}],
            "bundles.0: unknown key 'optimizer_d",
        ),
        (
            "environments",
            [{"id": "A-v0", "optimizer_definition": None}],
            "unknown key 'optimizer_definition'",
        ),
        ("optimizers.sgd.retrace", True, r"optimizers: sgd: unknown key 'retrace' with value True"),
        (
            "environments",
            [{"id": "A-v0", "policy_lr": 1}],
            r"also set by optimizers.sgd, received 1 and 0.02; keep one",
        ),
        (
            "schedule.total_steps",
            50,
            r"snapshot_interval must divide total_steps, received 300 and 50",
        ),
        ("training.update_after", 601, r"total_steps must be at least update_after.*600 < 601"),
        ("schedule.log_interval", 0, r"schedule.log_interval: .*received 0"),
        ("schedule.snapshot_interval", 0, r"schedule.snapshot_interval: .*received 0"),
        ("schedule.snapshot_interval", 250, r"snapshot_interval must divide total_steps"),
        (
            "axes.optimizer",
            ["adam", "adm"],
            r"axes.optimizer: .*'rmsprop' or 'lion', received 'adm'",
        ),
        ("axes.gamma", [0.9, 0.9], r"duplicate value of axes.gamma 0.9"),
        ("axes.gamma", [0.9, "0.9"], r"duplicate value of axes.gamma 0.9"),
        ("axes.gamma", [], r"axes: axis 'gamma' has no values"),
        ("axes.gamma", 0.9, r"axes.gamma: .*list, received 0.9"),
        ("evaluation.final_episodes", 0, r"evaluation.final_episodes: .*received 0"),
        ("execution.device", "gpu", r"execution.device: .*'auto', 'cpu' or 'cuda', received 'gpu'"),
        ("schedule.total_steps", 2**63, r"schedule.total_steps: .*received 9223372036854775808"),
        (
            "schedule.total_steps",
            10**300,
            r"schedule.total_steps: .*less than or equal to .*, received 10{59}\.\.\. \(301 ch",
        ),
        (
            "environments",
            [{"id": "A-v0", "total_steps": 2**63}],
            r"A-v0: total_steps: .*received 9223372036854775808",
        ),
        ("training.m_steps", 2**63, r"training.m_steps: .*received 9223372036854775808"),
        ("training.critic_max", 10**400, r"training.critic_max: .*received 10{59}\.\.\. \(401 ch"),
        ("statistics.replicates", 10**9, r"statistics.replicates: .*received 1000000000"),
        ("execution.threads", 10**9, r"execution.threads: .*received 1000000000"),
        ("execution.environment_timeout_s", 1e10, r"environment_timeout_s: .*received 100000000"),
        ("execution.checkpoint_interval_s", 1e10, r"checkpoint_interval_s: .*received 100000000"),
        ("study", 300 * "a", r"the study's name may have at most 200 char.*received 300: aaa"),
        ("environments", [300 * "a" + "-v0"], r"an environment's name may .*, received 303: aaa"),
        (
            "axes.policy_layer_sizes",
            [[16], 100 * [8]],
            r"values of the axes retrace, optimizer, policy_layer_sizes may .*received 2\d\d: retr",
        ),
        ("training.optimizer", "null", r"training.optimizer: .*received 'null'"),
        ("study", "a/b", r"study: .*received 'a/b'"),
        ("study", "reference", r"study: results/reference/ keeps .*, received 'reference'"),
        ("study", "Reference", r"study: results/reference/ keeps .*, received 'Reference'"),
        ("study", None, r"study: .*received None"),
        ("training", None, r"training: .*received None"),
        ("training.action_samples", 10**30, r"training.action_samples: .*10000, received 1000"),
        ("training.warmup_updates", 10**30, r"training.warmup_updates: .*received 1000"),
        ("training.temperature_init", 1e300, r"temperature_init: .*1.2e-38 to 3.4e\+38, received"),
        ("training.q_lr", 1e-40, r"training.q_lr: .* from 1.2e-38 to 3.4e\+38, received 1e-40"),
        ("training.critic_max", -1e39, r"training.critic_max: .*received -1e\+39"),
        ("tables.references", 300 * "x", r"tables.references: .*at most 255 bytes in the path"),
        (
            "axes.kl_epsilon",
            [0.1, 0.1000000000001],
            r"axes: .*'kl_epsilon': 0.1000000000001}, which are both called '.*kl epsilon 0.1'",
        ),
    ],
)
def test_bad_input_names_the_key_the_value_and_the_choices(path, value, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(changed(path, value))


@pytest.mark.parametrize("word", ["null", "~", "None"])
def test_null_may_be_a_string_where_a_key_may_be_null(word):
    """Inside of `--config training={...}` Snakemake leaves every value a string."""
    plain = Study.parse(SMALL)
    for key in ("training.target_polyak", "training.mstep_kl_epsilon_stddev"):
        assert Study.parse(changed(key, word)).runs == plain.runs
    capped = Study.parse(changed("evaluation.max_episode_steps", word))
    assert capped.evaluation_spec.identity == plain.evaluation_spec.identity
    compared = Study.parse(changed("axes.target_polyak", [word, "0.005"]))
    assert compared.axis_values["target_polyak"] == [None, 0.005]


def test_tf32_is_refused_where_runs_are_to_use_the_cpu():
    config = changed("axes.target_precision", ["float32", "tf32"])
    assert len(Study.parse(config).runs) == 2 * len(Study.parse(SMALL).runs)
    message = "target_precision-tf32: target_precision: 'tf32' needs a GPU, .* choose from float32"
    with pytest.raises(ConfigError, match=message):
        Study.parse(config | {"execution": {"device": "cpu"}})


@pytest.mark.parametrize("name", ["adam_n_step-3", "adam_n_step-3_weight_decay-0.1"])
def test_two_arms_with_the_same_directory_are_refused(name):
    """The name of an optimizer can look like the value of an axis."""
    config = changed("axes.n_step", [1, 3]) | {"optimizers": {name: {"class": "adam"}}}
    config["axes"]["optimizer"] = ["adam", name]
    if "decay" in name:
        config["axes"]["weight_decay"] = [None, 0.1]
    place = f"Pendulum-v1/retrace-off_optimizer-{name}: expected arms with different paths"
    with pytest.raises(ConfigError, match=f"{place}, received .*'adam'.* and .*'{name}'.*; give"):
        Study.parse(config)


def test_one_problem_is_one_line():
    with pytest.raises(ConfigError) as caught:
        Study.parse(changed("seeds", [0, -1]))
    assert str(caught.value).count("\n") == 0


# Bundles

BUNDLES = [
    {"name": "base"},
    {"name": "norms", "layer_norm": "all"},
    {"name": "a-rate", "q_lr": 0.5},
]


def test_a_bundle_is_a_set_of_values_and_an_axis():
    study = Study.parse(changed("bundles", BUNDLES))
    assert study.axis_values["bundle"] == ["base", "norms", "a-rate"]
    plain = {run.spec.identity for run in Study.parse(SMALL).runs}
    for run in study.runs:
        assert run.variant.endswith(f"_bundle-{run.arm['bundle']}")
        training = run.spec.training
        assert training.layer_norm == ("all" if run.arm["bundle"] == "norms" else "first")
        assert (training.q_lr == 0.5) == (run.arm["bundle"] == "a-rate")
        # The name is no part of what is learnt.
        assert (run.spec.identity in plain) == (run.arm["bundle"] == "base")


def test_bundles_that_differ_in_case_have_names_of_their_own():
    study = Study.parse(changed("bundles", [{"name": "Norm"}, {"name": "norm", "m_steps": 2}]))
    names = {arm_label(study, run.arm).split(", ")[-1] for run in study.runs}
    assert names == {"bundle Norm", "bundle norm"}


def test_the_first_bundle_stays_first_in_the_plan_that_is_written():
    written = json.loads(canonical_json(changed("bundles", BUNDLES)))
    assert Study.parse(written).axis_values["bundle"] == ["base", "norms", "a-rate"]


@pytest.mark.parametrize(
    ("bundles", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "duplicate bundle 'a'"),
        ([{"name": "a/b"}], "bundles.0.name"),
        ([{}], "bundles.0.name: Field required"),
        (["a"], "bundles.0"),
        ([{"name": "a", "gama": 0.9}], "unknown key 'gama' with value 0.9; did you mean 'gamma'"),
        ([{"name": "a", "retrace": True}], "unknown key 'retrace'"),
        ([{"name": "a", "gamma": 2}], r"bundles \(a\).gamma: .*received 2"),
        (
            [{"name": "a", "m_steps": 2}, {"name": "b"}, {"name": "c", "m_steps": 2}],
            "different values, received {'m_steps': 2} for 'a' and for 'c'",
        ),
        ([{"name": "a", "gamma": 0.5}], r"bundles \(a\).gamma: also set by environments"),
    ],
)
def test_a_bad_bundle_is_refused(bundles, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(changed("bundles", bundles))


def test_a_bundle_that_sets_an_axis_is_refused():
    config = changed("axes.n_step", [1, 3]) | {"bundles": [{"name": "a", "n_step": 5}]}
    with pytest.raises(ConfigError, match=r"bundles \(a\).n_step: also an axis, received 5"):
        Study.parse(config)
