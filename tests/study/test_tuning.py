"""The section `tuning` and the study of its stage."""

import json

import pytest

from mpo.study.checksums import Damaged, sealed
from mpo.study.choice import read_choice
from mpo.study.config import ConfigError, canonical_json
from mpo.study.plan import Study
from mpo.study.stale import refuse_taken_name, stale_files
from tests import synthetic

GRIDS = [
    {"optimizer": "adam", "q_lr": [1e-4, 1e-3, 1e-2]},
    {"optimizer": "sgd", "q_lr": [1e-2, 1e-1, 1.0]},
]
LEARNING_RATES = ("temperature_lr", "lambda_lr", "kl_epsilon")
RANGES = [{"optimizer": "adam", "q_lr": [1e-4, 1e-2]}, {"optimizer": "sgd", "q_lr": [1e-3, 1.0]}]
FOLLOWERS = {"policy_lr": {"q_lr": 0.5}}
ARMS = [("adam", False), ("sgd", False), ("adam", True), ("sgd", True)]


def config(environments=2, **tuning):
    section = {"axes": ["optimizer"], "grids": GRIDS, "followers": FOLLOWERS} | tuning
    return synthetic.config(environments) | {"tuning": section}


def search(environments=2, **tuning):
    section = {"search": "quasi-random", "candidates": 4, "ranges": RANGES, "grids": []}
    return config(environments, **(section | tuning))


def tuned_in(names, **tuning):
    given = config(**tuning)
    return given | {"tuning": given["tuning"] | {"environments": names}}


def chosen(env, arm, rate):
    settings = {"q_lr": rate, "policy_lr": 0.5 * rate}
    return {"env": env, "arm": {"optimizer": arm}, "settings": settings}


def stage(of):
    study = Study.parse(of)
    return Study.parse(study.tuning_stages(of)[0])


def test_the_stage_trains_every_candidate_of_every_arm_on_seeds_of_its_own():
    tuning = stage(config())
    assert tuning.study == "made-up-tuning" and len(tuning.runs) == 2 * 2 * 3 * 3
    assert {run.seed for run in tuning.runs} == {1000, 1001, 1002}
    assert {run.total_steps for run in tuning.runs} == {5000}
    tried = {(r.arm["optimizer"], r.arm["q_lr"]) for r in tuning.runs}
    assert tried == {(grid["optimizer"], rate) for grid in GRIDS for rate in grid["q_lr"]}
    for run in tuning.runs:
        training = run.spec.training
        assert training.q_lr == run.arm["q_lr"] and training.policy_lr == 0.5 * training.q_lr
        assert training.retrace is False and training.optimizer == run.arm["optimizer"]
        assert run.variant == f"retrace-off_optimizer-{training.optimizer}_q_lr-{training.q_lr}"


def test_the_plan_of_the_stage_is_a_study_by_itself():
    first = stage(config())
    assert first.tuning_stages({}) == [] and first.is_settled
    given = Study.parse(config()).tuning_stages(config())[0]
    assert given["study"] == "made-up-tuning" and given["seeds"] == [1000, 1001, 1002]
    assert Study.parse(given).runs == first.runs


def test_candidates_have_the_value_of_an_axis_that_has_only_one():
    given = config(1)
    given["axes"] |= {"retrace": [True], "gamma": [0.9]}
    for training in (run.spec.training for run in stage(given).runs):
        assert training.retrace is True and training.gamma == 0.9
    given["bundles"] = [{"name": "pink", "action_noise": "pink"}]
    assert {run.spec.training.action_noise for run in stage(given).runs} == {"pink"}
    given["axes"]["gamma"] = [0.8, 0.9]
    given["bundles"].append({"name": "white"})
    for training in (run.spec.training for run in stage(given).runs):
        assert training.gamma == 0.99 and training.action_noise == "white"


def test_environments_have_their_share_of_their_own_budgets():
    own = [
        {"id": "Pendulum-v1", "total_steps": 7000},
        {"id": "Reacher-v5", "total_steps": 1000, "gamma": 0.9, "update_after": 100},
    ]
    tuning = stage(config(own, budget=0.5))
    budgets = {run.spec.env_id: run.total_steps for run in tuning.runs}
    assert budgets == {"Pendulum-v1": 3000, "Reacher-v5": 1000}  # at least one interval
    assert {run.spec.training.gamma for run in tuning.runs} == {0.99, 0.9}


def test_without_a_choice_paths_are_known_and_specs_are_not():
    plain, tuned = Study.parse(synthetic.config(2)), Study.parse(config())
    assert [run.directory for run in tuned.runs] == [run.directory for run in plain.runs]
    assert not tuned.is_settled and plain.is_settled


def test_what_was_chosen_is_trained_with_every_value_of_the_other_axes(tmp_path):
    rows = [
        chosen(env, arm, rate)
        for env, arm, rate in (
            ("Pendulum-v1", "adam", 1e-4),
            ("Pendulum-v1", "sgd", 1.0),
            ("dm_control-walker-walk-v0", "adam", 1e-2),
            ("dm_control-walker-walk-v0", "sgd", 1e-1),
        )
    ]
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps(sealed({"chosen": rows})))
    study = Study.parse(config(), read_choice(path))
    assert study.is_settled
    found = {
        (r.spec.env_id, r.arm["optimizer"], r.arm["retrace"]): r.spec.training for r in study.runs
    }
    assert len(found) == 8
    for row in rows:
        for retrace in (False, True):
            env = row["env"].replace("dm_control-", "dm_control/")
            training = found[env, row["arm"]["optimizer"], retrace]
            assert training.q_lr == row["settings"]["q_lr"] == 2 * training.policy_lr
    path.write_text(json.dumps(sealed({"chosen": rows[1:]})))
    assert not Study.parse(config(), read_choice(path)).is_settled


def test_what_some_environments_choose_is_trained_in_all(tmp_path):
    walker = "dm_control/walker-walk-v0"
    given = tuned_in([walker], choose="across")
    tuning = stage(given)
    assert {run.spec.env_id for run in tuning.runs} == {walker}
    assert len(tuning.runs) == 2 * 3 * 3 and tuning.tuned_environments == tuning.environments
    rates = {"adam": 1e-4, "sgd": 1.0}
    rows = [chosen("dm_control-walker-walk-v0", *each) for each in rates.items()]
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps(sealed({"chosen": rows})))
    study = Study.parse(given, read_choice(path))
    assert study.is_settled and len(study.environments) == 2
    assert all(run.spec.training.q_lr == rates[run.arm["optimizer"]] for run in study.runs)


@pytest.mark.parametrize(
    ("names", "choose", "message"),
    [
        (["Walker"], "across", "tuning.environments: .*Pendulum-v1, dm_.*v0, received 'Walker'"),
        (["Pendulum-v1"] * 2, "across", "tuning.environments: expected every name once, received"),
        ([], "across", "tuning.environments: .*at least 1 item"),
        (
            ["Pendulum-v1"],
            "environment",
            "tuning.choose: expected 'across', .*leaves out dm_control/walker-walk-v0, received 'e",
        ),
    ],
)
def test_environments_that_cannot_choose_are_refused(names, choose, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(tuned_in(names, choose=choose))


EDITED = json.dumps(sealed({"chosen": []})).replace("[]", "[{}]")


@pytest.mark.parametrize("text", ["", "[]", '{"chosen": []}', json.dumps(sealed({})), EDITED])
def test_a_choice_that_is_not_the_one_that_was_written_is_named_and_planned_again(tmp_path, text):
    study = Study.parse(config())
    path = tmp_path / "results/made-up/chosen.json"
    path.parent.mkdir(parents=True)
    assert read_choice(path) is None and stale_files(study, "", (), tmp_path) == []
    path.write_text(text)
    with pytest.raises(Damaged, match="chosen.json: "):
        read_choice(path)
    assert stale_files(study, "", (), tmp_path) == [path.relative_to(tmp_path)]


def test_bundles_and_several_axes_can_be_tuned():
    given = config(1, axes=["optimizer", "retrace"])
    given["tuning"]["grids"] = [
        {"optimizer": "adam", "retrace": False, "q_lr": [1e-3], "gamma": [0.9, 0.99]},
        {"optimizer": "adam", "retrace": True, "q_lr": [1e-3, 1e-2]},
        {"optimizer": "sgd", "q_lr": [1e-3, 1e-2]},
    ]
    tuning = stage(given)
    assert len(tuning.cells) == 8 and tuning.tuned.keys == ("gamma", "q_lr")
    assert [*tuning.axis_values] == ["retrace", "optimizer", "gamma", "q_lr"]
    arms = [(cell.arm["retrace"], cell.arm["optimizer"]) for cell in tuning.cells]
    assert arms == sorted(arms)  # in the order of the axes, as the analysis expects
    given = config(1, axes=["bundle"], grids=[{"q_lr": [1e-3, 1e-2]}])
    given["bundles"] = [{"name": "base"}, {"name": "pink", "action_noise": "pink"}]
    cells = stage(given).cells
    assert [cell.spec.training.action_noise for cell in cells] == ["white"] * 2 + ["pink"] * 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"axes": ["gamma"]}, "tuning.axes: expected some of retrace, optimizer, received 'gamma'"),
        ({"seeds": [1000, 2]}, r"tuning.seeds: .* received \[2\] in both"),
        ({"seeds": [1000, 1000]}, "expected every seed once"),
        ({"grids": GRIDS[:1]}, "expected one grid for the arm optimizer sgd, received 0"),
        ({"grids": [*GRIDS, GRIDS[0]]}, "expected one grid for the arm optimizer adam, received 2"),
        ({"grids": [{"q_lr": 1e-3}]}, "tuning.grids.q_lr: expected a list of values, received 0.0"),
        ({"grids": [{"q_lr": []}]}, "tuning.grids.q_lr: expected a list of values"),
        ({"grids": [{"q_lr": [1e-3, 1e-3]}]}, "tuning.grids.q_lr: expected every value once"),
        ({"grids": [{"q_lr": ["fast"]}]}, "tuning.grids.q_lr: .*received 'fast'"),
        ({"grids": [{"q_rl": [1e-3]}]}, "unknown key 'q_rl' .*; did you mean 'q_lr'"),
        ({"grids": [{"optimizer": "lion", "q_lr": [1]}]}, r"one of \['adam', 'sgd'\], .* 'lion'"),
        ({"grids": [{"optimizer": "adam"}]}, "tuning.grids: expected a key to tune"),
        ({"grids": [{"retrace": [True]}]}, "unknown key 'retrace'"),
        ({"followers": {"policy_lr": {"gamma": 1}}}, "unknown key 'gamma' .* choose from q_lr"),
        ({"followers": {"policy_lr": {}}}, "tuning.followers.policy_lr: .*at least 1 item"),
        (
            {"followers": {"policy_lr": {"q_lr": 0}}},
            "tuning.followers.policy_lr.q_lr: .*received 0",
        ),
        ({"followers": {"policy": {"q_lr": 1}}}, "unknown key 'policy'"),
        ({"followers": {"q_lr": {"q_lr": 1}}}, "unknown key 'q_lr'"),
        ({"followers": {"gamma": {"q_lr": 9e9}}}, "tuning.gamma: .*received"),
        (
            {
                "grids": [{"policy_layer_sizes": [[64], [32, 32]], "gamma": [0.9]}],
                "followers": {"critic_layer_sizes": {"policy_layer_sizes": 1.0}},
            },
            r"tuning.followers.critic_layer_sizes: expected a tuned key of numbers .gamma., rec"
            r"eived 'policy_layer_sizes' with the values \[\(64,\), \(32, 32\)\]",
        ),
        (
            {
                "grids": [{"max_grad_norm": [None, 1.0]}],
                "followers": {"policy_lr": {"max_grad_norm": 1}},
            },
            r".there is none., received 'max_grad_norm' with the values \[None, 1.0\]",
        ),
        (
            {
                "grids": [{"action_penalty": [True, False]}],
                "followers": {"policy_lr": {"action_penalty": 1}},
            },
            "tuning.followers.policy_lr: expected a tuned key of numbers",
        ),
        (
            {"grids": [{"kl_epsilon": [float("inf"), 1.0]}], "followers": {}},
            "tuning.grids.kl_epsilon: .*finite number, received inf",
        ),
        ({"budget": 0}, "tuning.budget: .*received 0"),
        ({"search": "bayes"}, "tuning.search: .*'random' or 'quasi-random', received 'bayes'"),
        (
            {"grids": []},
            "tuning.grids: expected an entry for each arm with search 'grid', rec.* none",
        ),
        ({"ranges": RANGES}, "tuning.ranges: expected none with search 'grid', received .*0.01"),
        ({"candidates": 8}, "tuning.candidates: expected none with search 'grid', received 8"),
        ({"criterion": "best"}, "tuning.criterion: .*'area' or 'final', received 'best'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_the_key_and_the_value(changed, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(config(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"grids": GRIDS},
            "tuning.grids: expected none with search 'quasi-random', .*choose search",
        ),
        (
            {"ranges": []},
            "tuning.ranges: expected an entry for each arm with search 'quasi-random'",
        ),
        (
            {"candidates": None},
            "tuning.candidates: expected a number of at least 2 .*received None",
        ),
        ({"candidates": 1}, "tuning.candidates: .*greater than or equal to 2, received 1"),
        (
            {"ranges": RANGES[:1]},
            "tuning.ranges: expected one entry for the arm optimizer sgd, rec.* 0",
        ),
        (
            {"ranges": [{"q_lr": [1e-2, 1e-3]}]},
            r"tuning.ranges.q_lr: .*lower first, rec.*0.01, 0.001",
        ),
        (
            {"ranges": [{"gamma": [0, 0.9]}]},
            r"tuning.ranges.gamma: .*two positive numbers.*\[0, 0.9",
        ),
        (
            {"ranges": [{"q_lr": [1e-3]}]},
            "tuning.ranges.q_lr: expected a range of two numbers, rec",
        ),
        ({"ranges": [{"q_lr": 1e-3}]}, "tuning.ranges.q_lr: expected a range of two numbers, rec"),
        ({"ranges": [{"q_lr": ["slow", 1]}]}, "tuning.ranges.q_lr: .*received 'slow'"),
        ({"ranges": [{"gamma": [0.9, 1.1]}]}, "tuning.ranges.gamma: .*received 1.1"),
        (
            {"ranges": [{"q_lr": [1.0, float("inf")]}]},
            "tuning.ranges.q_lr: .*finite number, received inf",
        ),
        ({"ranges": [{"action_penalty": [0, 1]}]}, "action_penalty: expected a key of numbers"),
        ({"ranges": [{"q_rl": [1, 2]}]}, "unknown key 'q_rl' .*; did you mean 'q_lr'"),
        ({"ranges": [{"optimizer": "lion", "q_lr": [1, 2]}]}, r"tuning.ranges.optimizer: .*'lion'"),
        ({"ranges": [{"optimizer": "adam"}]}, "tuning.ranges: expected a key to tune"),
        (
            {"ranges": [{"n_step": [1, 3]}], "followers": {}},
            "4 different candidates for the arm opt",
        ),
        (
            {"ranges": [dict.fromkeys(["q_lr", "gamma", *LEARNING_RATES], [0.1, 0.9])]},
            "at most 4 keys with search 'quasi-random', received q_lr, gamma, temperature_lr, l",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_with_the_key_and_the_value(changed, message):
    with pytest.raises(ConfigError, match=message):
        Study.parse(search(**changed))


@pytest.mark.parametrize(
    ("key", "sections", "message"),
    [
        ("q_lr", {"axes": {"q_lr": [1e-3, 1e-2]}}, r"an axis, received \[0.001, 0.01\]; keep"),
        ("policy_lr", {"axes": {"policy_lr": [1e-3]}}, r"an axis, received \[0.001\]; keep one"),
        ("q_lr", {"bundles": [{"name": "a"}, {"name": "b", "q_lr": 0.3}]}, ".*.b., received 0.3"),
        ("policy_lr", {"bundles": [{"name": "a", "policy_lr": 0.3}]}, "set by bundles .a., rec"),
        ("q_lr", {"environments": [{"id": "A-v0", "q_lr": 0.3}]}, "set by environments .A-v0., r"),
        (
            "policy_lr",
            {"environments": [{"id": "A-v0", "policy_lr": 0.3}]},
            ".*.A-v0., received 0.3",
        ),
    ],
)
def test_a_key_that_tuning_chooses_and_something_else_sets_is_refused(key, sections, message):
    given = config() | sections
    given["axes"] = config()["axes"] | sections.get("axes", {})
    with pytest.raises(ConfigError, match=f"tuning: {key} is also {message}"):
        Study.parse(given)
    bundle = given | {"tuning": given["tuning"] | {"axes": ["bundle"], "grids": [{"q_lr": [1.0]}]}}
    if "bundles" in sections:
        with pytest.raises(ConfigError, match=f"tuning: {key} is also {message}"):
            Study.parse(bundle)


def test_a_choice_of_what_is_no_candidate_is_ignored_and_made_again(tmp_path):
    arms = [{"optimizer": "adam"}, {"optimizer": "sgd"}]
    given = config([{"id": "Pendulum-v1", "gamma": 0.9}])

    def study(settings):
        rows = [{"env": "Pendulum-v1", "arm": arm, "settings": settings} for arm in arms]
        path.write_text(json.dumps(sealed({"chosen": rows})))
        return Study.parse(given, read_choice(path))

    path = tmp_path / "results/made-up/chosen.json"
    path.parent.mkdir(parents=True)
    rates = {"q_lr": 1e-2, "policy_lr": 5e-3}
    assert study(rates).is_settled and stale_files(study(rates), "", (), tmp_path) == []
    for earlier in (
        {"gamma": 0.5},
        {"q_lr": 1e-3},
        rates | {"n_step": 2000},
        rates | {"q_lr": 9.0},
    ):
        assert not study(earlier).is_settled
        assert stale_files(study(earlier), "", (), tmp_path) == [path.relative_to(tmp_path)]
        assert study(earlier).runs == Study.parse(given).runs


LAYERS = [[64, 64], [128, 128]]


@pytest.mark.parametrize(
    ("axis", "values", "written"),
    [
        ("policy_layer_sizes", LAYERS, LAYERS),
        ("mstep_kl_epsilon", [5e-3, 1e-2], ["5e-3", "0.01"]),  # YAML reads 5e-3 as text
        ("max_grad_norm", [None, 1.0], ["null", 1]),
    ],
)
def test_a_grid_can_be_for_any_value_of_an_axis(axis, values, written):
    given = config(1, axes=[axis])
    given["axes"] = {axis: values}
    rates = [[1e-3, 1e-2], [1e-4]]
    pairs = zip(written, rates, strict=True)
    given["tuning"]["grids"] = [{axis: value, "q_lr": tried} for value, tried in pairs]
    found = Study.parse(given)
    arms = [{axis: value} for value in found.axis_values[axis]]
    tried = [[c["q_lr"] for c in found.tuned.candidates_of(arm)] for arm in arms]
    assert tried == rates and len(stage(given).cells) == 3


@pytest.mark.parametrize("budget", [0.29, 0.57, 0.58])
def test_a_budget_is_the_share_that_was_written_not_a_little_less(budget):
    given = synthetic.config(1, total_steps=100_000, snapshots=100) | {"tuning": config()["tuning"]}
    given["tuning"]["budget"] = budget
    assert {run.total_steps for run in stage(given).runs} == {round(100_000 * budget)}


def test_the_ends_of_a_grid_are_its_edge():
    tuning = Study.parse(config()).tuned
    arm = {"optimizer": "adam"}
    edges = [tuning.is_on_edge(arm, candidate) for candidate in tuning.candidates_of(arm)]
    assert edges == [True, False, True]
    alone = Study.parse(config(grids=[{"q_lr": [1e-3]}])).tuned
    assert not alone.is_on_edge(arm, {"q_lr": 1e-3})


@pytest.mark.parametrize("kind", ["random", "quasi-random"])
def test_a_search_tries_as_many_candidates_of_each_arm_within_its_range(kind):
    tuning = stage(search(search=kind))
    assert len(tuning.runs) == 2 * 2 * 4 * 3
    tried = {"adam": set(), "sgd": set()}
    for run in tuning.runs:
        tried[run.arm["optimizer"]].add(run.arm["q_lr"])
        assert run.spec.training.policy_lr == 0.5 * run.spec.training.q_lr
        assert run.spec.training.q_lr == float(f"{run.arm['q_lr']:.2e}")
    assert {name: len(values) for name, values in tried.items()} == {"adam": 4, "sgd": 4}
    assert all(1e-4 <= value <= 1e-2 for value in tried["adam"])
    assert all(1e-3 <= value <= 1.0 for value in tried["sgd"])


@pytest.mark.parametrize("kind", ["random", "quasi-random"])
def test_one_candidate_more_leaves_the_others_as_they_are(kind):
    ranges = [{"q_lr": [1e-4, 1e-2], "gamma": [0.9, 0.999]}]
    before, after = (
        {
            run.directory: run.spec
            for run in stage(search(search=kind, candidates=n, ranges=ranges)).runs
        }
        for n in (4, 5)
    )
    assert before.items() <= after.items() and len(after) == len(before) + 2 * 2 * 3
    other = search(search=kind, ranges=ranges) | {"statistics": {"seed": 1}}
    assert {run.directory for run in stage(other).runs}.isdisjoint(after)


def test_the_order_of_keys_and_the_other_arms_change_no_candidate():
    ranges = [{"q_lr": [1e-4, 1e-2], "gamma": [0.9, 0.999]}]
    turned = [dict(reversed(ranges[0].items()))]
    arm = {"optimizer": "adam"}
    given = search(ranges=ranges)
    found = Study.parse(given).tuned.candidates_of(arm)
    assert Study.parse(search(ranges=turned)).tuned.candidates_of(arm) == found
    assert Study.parse(given).tuned.candidates_of({"optimizer": "sgd"}) != found
    given["axes"] = {"optimizer": ["sgd", "adam", "lion"]}
    assert Study.parse(given).tuned.candidates_of(arm) == found


KEYS = {"mstep_kl_epsilon": [1e-3, 1e-2], "kl_epsilon": [0.1, 1.0], "critic_batch_size": [64, 128]}


@pytest.mark.parametrize(
    "given",
    [config(grids=[KEYS], followers={}), search(ranges=[KEYS], followers={})],
    ids=["grid", "search"],
)
def test_a_stage_has_the_same_paths_when_its_plan_is_read_again(given):
    """Plans are written with sorted keys; `collect` reads them."""
    again = json.loads(canonical_json(given))
    assert [*again["tuning"].values()] != [*given["tuning"].values()]
    assert [run.run_id for run in stage(again).runs] == [run.run_id for run in stage(given).runs]


def test_a_reported_run_is_the_same_whichever_search_found_its_settings(tmp_path):
    given = config()
    assert (
        Study.parse(given).tuning_stages(given)[0]["tuning"] == given["tuning"]
    )  # no key is added
    for tuned in (given, search(), search(search="random")):
        before = Study.parse(tuned)
        arms = [{"optimizer": name} for name in ("adam", "sgd")]
        settings = [before.tuned.settings(before.tuned.candidates_of(arm)[0]) for arm in arms]
        rows = [
            {"env": environment.slug, "arm": arm, "settings": of}
            for environment in before.environments
            for arm, of in zip(arms, settings, strict=True)
        ]
        path = tmp_path / "chosen.json"
        path.write_text(json.dumps(sealed({"chosen": rows})))
        plain = synthetic.config(2) | {
            "optimizers": dict(zip(("adam", "sgd"), settings, strict=True))
        }
        expected = [(run.directory, run.spec.identity) for run in Study.parse(plain).runs]
        study = Study.parse(tuned, read_choice(path))
        assert study.is_settled
        assert [(run.directory, run.spec.identity) for run in study.runs] == expected


def test_the_ends_of_what_a_search_tried_are_its_edge():
    tuning = Study.parse(search()).tuned
    arm = {"optimizer": "adam"}
    tried = tuning.candidates_of(arm)
    rates = sorted(candidate["q_lr"] for candidate in tried)
    on_edge = [c["q_lr"] for c in tried if tuning.is_on_edge(arm, c)]
    assert sorted(on_edge) == [rates[0], rates[-1]]


@pytest.mark.parametrize("there", ["reported", "tuning"])
def test_a_stage_and_a_reported_study_cannot_share_a_folder(tmp_path, there):
    """The files of one would be replaced by those of the other."""
    given = config()
    tuning = Study.parse(given).tuning_stages(given)[0]
    reported = synthetic.config() | {"study": tuning["study"]}
    plans = {"reported": reported, "tuning": tuning}
    path = tmp_path / "results" / tuning["study"] / "study.json"
    path.parent.mkdir(parents=True)
    path.write_text(canonical_json(plans.pop(there)))
    refuse_taken_name(Study.parse(json.loads(path.read_text())), tmp_path)
    (other,) = plans.values()
    with pytest.raises(ConfigError, match=f"{tuning['study']} holds .* '{there}'.*another name"):
        refuse_taken_name(Study.parse(other), tmp_path)
