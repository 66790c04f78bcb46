import functools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from mpo.analysis import tables
from mpo.report import figures
from mpo.report.figures import (
    cost_curves,
    costs,
    critic,
    diagnostics,
    effects,
    final_scores,
    learning_curves,
    planned_runs,
    profiles,
    q_bias,
    sample_efficiency,
    style,
)
from tests import synthetic
from tests.cases import first_of

TWO_OPTIMIZERS = {"retrace": [False, True], "optimizer": ["adam", "sgd"]}
STUDIES = {
    "usual": {},
    "one of each": {
        "environments": 1,
        "seeds": 1,
        "axes": {"retrace": [True], "optimizer": ["adam"]},
    },
    "two arms": {"axes": {"optimizer": ["adam", "sgd"]}},
    "twelve arms": {"environments": 1, "axes": {**TWO_OPTIMIZERS, "gamma": [0.9, 0.95, 0.99]}},
    "fifteen environments": {"environments": 15, "seeds": 2},
}


T_OF_THREE = ("95 % Student-t interval", "n = 3 seeds (exploratory)")
CAPTIONS = {
    "learning_curves": T_OF_THREE,
    "final_scores": T_OF_THREE,
    "effects": (*T_OF_THREE, "with Welch's t interval"),
    "aggregates": ("2 environments (at least 6 runs per arm, exploratory)", "500 resamples"),
    "profiles": ("at least 6 runs per arm, exploratory", "2000 resamples"),
    "improvements": ("above a run of Retrace off, adam", "6 runs per arm, exploratory", "500"),
    "sample_efficiency": (
        "2 environments (at least 6 runs per arm, exploratory)",
        "2000 resamples",
    ),
    "cost_curves": (*T_OF_THREE, "Core-seconds are the CPU time of training"),
    "planned_runs": ("Status of the 24 planned runs, each a cell: 24 ok.",),
    "diagnostics": ("n = 3 seeds (exploratory); their mean (line) and their range (band).",),
    "critic": ("n = 3 seeds (exploratory); their mean (line) and their range (band).",),
    "q_bias": (*T_OF_THREE, "on average 43 % in Pendulum-v1, 43 % in dm_control/walker-walk-v0."),
    "costs": ("n = 3 seeds (exploratory), each a dot; their mean (outlined mark).",),
}
ALONE = {
    "learning_curves": "no interval",
    "final_scores": "no interval",
    "effects": "no factor is varied",
    "aggregates": "at least 1 run per arm, exploratory",
    "profiles": "at least 1 run per arm, exploratory",
    "improvements": "no two arms",
    "sample_efficiency": "at least 1 run per arm, exploratory",
    "cost_curves": "one seed (exploratory, no interval). Each",
    "planned_runs": "Status of the 1 planned run, each a cell: 1 ok.",
    "diagnostics": "one seed (exploratory, no interval). ",
    "critic": "one seed (exploratory, no interval). ",
    "q_bias": "one seed (exploratory, no interval), each a dot. ",
    "costs": "one seed (exploratory, no interval), each a dot. ",
}
"""Part of the caption for a study of one arm, one environment and one seed."""

WITH_GAPS = {
    "learning_curves": "n = 0 to 3 seeds",
    "final_scores": "n = 0 to 3 seeds",
    "effects": "n = 2 to 3 seeds",
    # Only one environment has a run of every arm.
    "aggregates": "over 1 environment (at least 3 runs per arm, exploratory)",
    "profiles": "at least 3 runs per arm",
    "improvements": "at least 3 runs per arm",
    "sample_efficiency": "over 1 environment (at least 3 runs per arm",
    "cost_curves": "n = 0 to 3 seeds",
    "planned_runs": "20 ok, 16 failed. ",
    "diagnostics": "n = 0 to 3 seeds",
    "critic": "n = 0 to 3 seeds",
    "q_bias": "n = 0 to 3 seeds",
    "costs": "n = 0 to 3 seeds",
}
"""Part of the caption for a study with missing runs."""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Each study of `STUDIES`, with its tables."""
    found = {}
    for name, settings in STUDIES.items():
        root = tmp_path_factory.mktemp("study")
        study = synthetic.plan(**settings)
        synthetic.write_runs(study, root)
        found[name] = study, synthetic.write_tables(study, root)
    return found


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def arms(study):
    return len(study.runs) // (len(study.environments) * len(study.seeds))


@pytest.mark.parametrize("name", first_of(STUDIES))
def test_learning_curves_show_every_environment_arm_and_seed(collected, name):
    study, folder = collected[name]
    figure = learning_curves.draw(study, folder)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [e.id for e in study.environments]
    curves = tables.read(folder, "curves")
    for axes in panels:
        lines = [line for line in axes.lines if line.get_marker() not in ("", "None", None)]
        assert len(lines) == arms(study)
        assert len(axes.lines) == arms(study) * (1 + len(study.seeds))
        cell = curves[curves["env"] == axes.get_title()]
        for line, (_, curve) in zip(lines, cell.groupby("arm", sort=False), strict=True):
            assert np.allclose(line.get_ydata(), curve["mean"])
            assert np.allclose(line.get_xdata(), curve["env_step"])
    assert panels[-1].get_xlabel() == "Environment steps"
    assert [text.get_text() for text in figure.legends[0].texts] == list(style.looks(study))


@pytest.mark.parametrize("name", first_of(STUDIES))
def test_final_scores_show_every_seed_mean_and_arm(collected, name):
    study, folder = collected[name]
    figure = final_scores.draw(study, folder)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [e.id for e in study.environments]
    scores = tables.read(folder, "scores").query("policy == 'mode'")
    for axes in panels:
        dots = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
        assert len(dots) == arms(study) * len(study.seeds)
        means = [line.get_xdata()[0] for line in axes.lines if line.get_zorder() == 3]
        assert means == pytest.approx(list(scores[scores["env"] == axes.get_title()]["mean"]))
        low, high = axes.get_xlim()
        assert low < dots[:, 0].min() and dots[:, 0].max() < high
        bottom, top = axes.get_ylim()  # every row is complete, the first arm is on top
        assert (bottom, top) == (arms(study) - 0.5, -0.5)
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == list(style.looks(study))


def test_an_arm_looks_the_same_in_every_figure(collected):
    study, folder = collected["usual"]
    looks = list(style.looks(study).values())
    curves = learning_curves.draw(study, folder).axes[0]
    lines = [line for line in curves.lines if line.get_marker() not in ("", "None", None)]
    marks = [
        line for line in final_scores.draw(study, folder).axes[0].lines if line.get_zorder() == 3
    ]
    for drawn in (lines, marks):
        assert [to_rgb(line.get_color()) for line in drawn] == [look.color for look in looks]
        assert [line.get_marker() for line in drawn] == [look.marker for look in looks]


@pytest.fixture
def wild(tmp_path):
    """Two seeds far apart: their interval is about thirteen times as wide as their range."""
    study = synthetic.plan(seeds=2, axes={})
    synthetic.write_runs(study, tmp_path, spread=0.5)
    return study, synthetic.write_tables(study, tmp_path)


def test_a_wide_band_leaves_the_axis_to_the_seeds(wild):
    seeds = tables.seed_returns(wild[1], "online")
    for axes in learning_curves.draw(*wild).axes:
        shown = seeds[seeds["env"] == axes.get_title()]["return"]
        low, high = axes.get_ylim()
        assert low < shown.min() and shown.max() < high
        assert high - low < 1.2 * (shown.max() - shown.min())


def test_an_interval_beyond_its_axis_ends_in_arrows(wild, collected):
    figure = final_scores.draw(*wild)
    for axes in figure.axes:
        arrows = [line for line in axes.lines if line.get_marker() in ("<", ">")]
        assert [line.get_xdata()[0] for line in arrows] == pytest.approx(axes.get_xlim())
    assert figure.legends[0].texts[-1].get_text() == "Beyond the axis"
    assert "An arrow marks" in final_scores.caption(*wild)
    study, folder = collected["one of each"]
    assert len(final_scores.draw(study, folder).legends[0].texts) == 2
    assert "arrow" not in final_scores.caption(study, folder)


def test_an_effects_interval_beyond_its_axis_ends_in_arrows(tmp_path):
    study = synthetic.plan(seeds=2, axes={"retrace": [False, True]})
    synthetic.write_runs(study, tmp_path, spread=0.5)
    folder = synthetic.write_tables(study, tmp_path)
    axes = effects.draw(study, folder).axes[0]
    left, right = axes.get_xlim()
    found = tables.read(folder, "effects").query("unit == 'score'")
    rows = [label.get_text() for label in axes.get_yticklabels()]
    for mark, end, cut in (("<", left, found["lo"] < left), (">", right, found["hi"] > right)):
        arrows = [line for line in axes.lines if line.get_marker() == mark]
        assert {rows[line.get_ydata()[0]] for line in arrows} == set(found[cut]["env"]) != set()
        assert [line.get_xdata()[0] for line in arrows] == pytest.approx([end] * len(arrows))


@pytest.mark.parametrize("module", first_of([learning_curves, final_scores, planned_runs]))
def test_long_titles_do_not_run_into_one_another(tmp_path, module):
    ids = [f"dm_control/manipulator-insert_peg-v{index}" for index in range(3)]
    study = synthetic.plan(environments=ids, seeds=1, axes={})
    synthetic.write_runs(study, tmp_path)
    synthetic.write_tables(study, tmp_path)
    with plt.rc_context(style.RC):
        figure = module.draw(study, tmp_path / "tables")
        boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("name", figures.FIGURES)
def test_missing_runs_leave_gaps_and_are_counted(tmp_path, name):
    study = synthetic.plan(environments=3)
    synthetic.write_runs(study, tmp_path)
    # Lose one seed of the first arm, all of the second arm and the whole last environment.
    study = synthetic.lose(study, tmp_path, [0, 3, 4, 5, *range(24, 36)])
    synthetic.write_tables(study, tmp_path)
    figures.draw(name, study, tmp_path / "tables", [tmp_path / f"{name}.png"])
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    caption = figures.caption(name, study, tmp_path / "tables")
    assert WITH_GAPS[name] in caption, caption


def test_retrace_is_the_colour_and_the_optimizer_the_dash():
    looks = list(style.looks(synthetic.plan()).values())
    assert looks[0].color == looks[1].color != looks[2].color == looks[3].color
    assert looks[0].linestyle == looks[2].linestyle != looks[1].linestyle == looks[3].linestyle


def test_arms_of_many_axes_can_all_be_told_apart():
    study = synthetic.plan(axes={**TWO_OPTIMIZERS, "gamma": [0.9, 0.95, 0.99]})
    looks = style.looks(study)
    assert len(set(looks.values())) == len(looks) == 12


FIVE = {"retrace": [False, True], "optimizer": ["adam", "adamw", "sgd", "rmsprop", "lion"]}


@pytest.mark.parametrize("axes", [{"gamma": np.linspace(0, 0.99, 40).tolist()}, FIVE], ids=len)
def test_up_to_forty_arms_can_be_told_apart_by_lines_alone(axes):
    """In figures without markers."""
    looks = style.looks(synthetic.plan(environments=1, seeds=1, axes=axes))
    lines = {(look.color, look.linestyle) for look in looks.values()}
    assert len(lines) == len(looks) == len(style.arms_key(looks, markers=False))


def test_the_first_twenty_arms_look_as_they_always_did():
    axes = {"gamma": np.linspace(0, 0.99, 20).tolist()}
    looks = [*style.looks(synthetic.plan(environments=1, seeds=1, axes=axes)).values()]
    found = [(to_hex(look.color), look.linestyle, look.marker) for look in looks]
    assert found[:2] == [("#0173b2", "solid", "o"), ("#de8f05", (0, (4, 1.5)), "s")]
    assert found[2:4] == [("#029e73", (0, (1, 1)), "^"), ("#d55e00", (0, (5, 1, 1, 1)), "D")]
    assert found[10] == ("#0173b2", (0, (1, 1)), "D")
    assert found[19] == ("#56b4e9", (0, (5, 1, 1, 1)), "P")


def test_beyond_the_limit_the_legend_says_that_looks_repeat(tmp_path):
    axes = {"gamma": np.linspace(0, 0.99, 41).tolist()}
    study = synthetic.plan(environments=1, seeds=1, axes=axes)
    synthetic.write_runs(study, tmp_path)
    figure = profiles.draw(study, synthetic.write_tables(study, tmp_path))
    shown = [text.get_text() for text in figure.legends[0].texts]
    assert shown == [*style.looks(study), "Looks repeat after 40 arms"]
    assert len(style.arms_key(style.looks(study), lines=False)) == 41  # colours and markers differ


@pytest.mark.parametrize("name", first_of(figures.FIGURES))
def test_files_are_equal_bytes_and_captions_say_the_interval_and_n(collected, tmp_path, name):
    study, folder = collected["usual"]
    for run in ("a", "b"):
        outputs = [tmp_path / run / f"{name}.{kind}" for kind in ("png", "pdf", "svg")]
        figures.draw(name, study, folder, outputs)
    for output in outputs:
        assert output.read_bytes() == (tmp_path / "a" / output.name).read_bytes()
    caption = figures.caption(name, study, folder)
    assert all(words in caption for words in CAPTIONS[name]), caption
    study, folder = collected["one of each"]
    assert ALONE[name] in figures.caption(name, study, folder)


def test_unknown_names_and_formats_list_the_choices(collected, tmp_path):
    study, folder = collected["usual"]
    with pytest.raises(ValueError, match="'curves'; choose from learning_curves, final_scores"):
        figures.draw("curves", study, folder, [tmp_path / "x.png"])
    with pytest.raises(ValueError, match="x.jpg; choose from .pdf, .svg, .png"):
        figures.draw("final_scores", study, folder, [tmp_path / "x.jpg"])


@pytest.fixture
def made(tmp_path):
    """A function that makes a study and its tables, which the test may change."""
    return functools.partial(synthetic.made, tmp_path)


@pytest.mark.parametrize("name", first_of(STUDIES))
def test_sample_efficiency_shows_every_arm_against_steps_and_cost(collected, name):
    study, folder = collected[name]
    figure = sample_efficiency.draw(study, folder)
    progress, spent = figure.axes
    assert progress.get_xlabel() == "Environment steps"
    assert spent.get_xlabel() == "Core-seconds of training"
    found = tables.read(folder, "sample_efficiency")
    for axes, column in ((progress, "env_step"), (spent, "cost")):
        assert len(axes.lines) == len(axes.collections) == arms(study)
        drawn = zip(axes.lines, axes.collections, style.looks(study).items(), strict=True)
        for line, band, (arm, look) in drawn:
            curve = found[found["arm"] == arm]
            ends = {y for path in band.get_paths() for y in path.vertices[:, 1]}
            assert ends == ({*curve["lo"], *curve["hi"]} if len(study.seeds) > 1 else set())
            assert np.allclose(line.get_xdata(), curve[column].astype(float))
            assert np.allclose(line.get_ydata(), curve["estimate"])
            assert (line.get_color(), line.get_marker()) == (look.color, look.marker)
    assert [text.get_text() for text in figure.legends[0].texts] == list(style.looks(study))


@pytest.mark.parametrize("figure", [sample_efficiency, cost_curves])
@pytest.mark.parametrize(("longer", "unit"), [(10, "seconds"), (20, "minutes"), (5000, "hours")])
def test_the_cost_is_in_the_unit_that_fits(made, longer, unit, figure):
    study, folder = made(environments=1, seeds=1)
    for name in ("sample_efficiency", "cost_curves"):
        cost = tables.read(folder, name)["cost"]  # up to 20.8 s
        synthetic.change(folder, name, cost=cost * longer)
    axes = figure.draw(study, folder).axes[-1]
    seconds = {"seconds": 1, "minutes": 60, "hours": 3600}[unit]
    assert axes.get_xlabel().startswith(f"Core-{unit}")
    assert max(axes.lines[0].get_xdata()) == pytest.approx(10_000 / 480 * longer / seconds)


@pytest.mark.parametrize("name", first_of(STUDIES))
def test_cost_curves_show_every_environment_and_arm(collected, name):
    study, folder = collected[name]
    figure = cost_curves.draw(study, folder)
    assert [axes.get_title() for axes in figure.axes] == [e.id for e in study.environments]
    found = tables.read(folder, "cost_curves")
    for axes in figure.axes:
        assert len(axes.lines) == arms(study)
        for line, (arm, look) in zip(axes.lines, style.looks(study).items(), strict=True):
            curve = found[(found["arm"] == arm) & (found["env"] == axes.get_title())]
            assert np.allclose(line.get_xdata(), curve["cost"])
            assert np.allclose(line.get_ydata(), curve["mean"])
            assert (line.get_color(), line.get_marker()) == (look.color, look.marker)
    assert [text.get_text() for text in figure.legends[0].texts] == list(style.looks(study))


def test_an_environment_without_runs_has_an_empty_panel_of_costs(tmp_path):
    study = synthetic.plan()
    synthetic.write_runs(study, tmp_path)
    lost = synthetic.lose(study, tmp_path, range(12))
    empty, full = cost_curves.draw(lost, synthetic.write_tables(lost, tmp_path)).axes
    assert [text.get_text() for text in empty.texts] == ["no finished run"]
    assert not empty.lines and len(full.lines) == 4


def test_unlike_budgets_are_compared_by_their_shares(made):
    shorter = {"id": "Reacher-v5", "total_steps": 5000, "log_interval": 500}
    study, folder = made(environments=["Pendulum-v1", shorter])
    progress = sample_efficiency.draw(study, folder).axes[0]
    assert progress.get_xlabel() == "Fraction of the training budget"
    # The points are those of the environment with five snapshots.
    assert list(progress.lines[0].get_xdata()) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert "2 environments, whose budgets differ" in sample_efficiency.caption(study, folder)


def test_without_a_reference_sample_efficiency_says_why_it_is_empty(made):
    study, folder = made(environments=1)
    tables.write({"sample_efficiency": tables.read(folder, "sample_efficiency").iloc[:0]}, folder)
    words = "o environment has a reference score and a run of every arm."
    assert words in sample_efficiency.draw(study, folder).texts[0].get_text()
    assert words in sample_efficiency.caption(study, folder)


def test_planned_runs_are_told_apart_by_colour_and_sign(made):
    study, folder = made()
    status = ["ok"] * 24
    status[1], status[5], status[6], status[12] = "diverged", "failed", "failed", "running"
    status[21], status[22], status[23] = "damaged", "timeout", "planned"
    synthetic.change(folder, "runs", status=status)
    figure = planned_runs.draw(study, folder)
    figure.canvas.draw()
    signs = {"P": "planned", "R": "running", "\N{CHECK MARK}": "ok"}
    signs |= {"D": "diverged", "F": "failed", "T": "timeout", "X": "damaged"}
    colours = {}
    for panel, axes in enumerate(figure.axes):
        cells = axes.collections[0].get_facecolors()  # rows are arms with three seeds each
        assert len(cells) == 12
        shown = {}
        for line in axes.lines:
            sign = signs[line.get_marker().removeprefix(r"$\mathrm{").removesuffix("}$")]
            for x, y in line.get_xydata():
                shown[int(y) * 3 + int(x)] = sign
        assert [shown[index] for index in range(12)] == status[12 * panel : 12 * panel + 12]
        for index, colour in enumerate(cells):
            colours.setdefault(shown[index], set()).add(tuple(colour))
        assert axes.get_ylim() == (4, 0)  # the first arm is on top
    assert len(colours) == len(set.union(*colours.values())) == 7  # one distinct colour per status
    legend = {text.get_text() for text in figure.legends[0].texts}
    assert legend == {
        *("P planned: 1", "R running: 1", "\N{CHECK MARK} ok: 17"),
        *("D diverged: 1", "F failed: 2", "T timeout: 1", "X damaged: 1"),
    }
    caption = planned_runs.caption(study, folder)
    assert "1 planned, 1 running, 17 ok, 1 diverged, 2 failed, 1 timeout, 1 damaged" in caption
    assert "6 runs are missing in the other figures" in caption


@pytest.mark.parametrize("name", first_of(STUDIES))
def test_planned_runs_label_arms_and_seeds_at_the_edges(collected, name):
    study, folder = collected[name]
    figure = planned_runs.draw(study, folder)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [e.id for e in study.environments]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == list(style.looks(study))
    assert [t.get_text() for t in panels[-1].get_xticklabels()] == list(map(str, study.seeds))
    for axes in panels:
        assert axes.collections[0].get_array().shape == (arms(study), len(study.seeds))
        below = [
            other
            for other in panels
            if other.get_position().x0 == pytest.approx(axes.get_position().x0)
            and other.get_position().y0 < axes.get_position().y0 - 1e-6
        ]
        assert axes.get_xlabel() == ("" if below else "Seed")


@pytest.mark.parametrize("first", first_of([123_456, 0]))
@pytest.mark.parametrize("name", first_of(STUDIES))
def test_cells_of_planned_runs_are_large_enough_for_their_signs(made, name, first):
    study, folder = made(**STUDIES[name])
    study = study.model_copy(update={"seeds": tuple(first + seed for seed in study.seeds)})
    synthetic.change(folder, "runs", seed=tables.read(folder, "runs")["seed"] + first)
    with plt.rc_context(style.RC):
        figure = planned_runs.draw(study, folder)
        figure.canvas.draw()
        for axes in figure.axes:
            side = axes.get_window_extent().height / figure.dpi / arms(study)
            assert 0.14 < side < 0.3 or not axes.get_visible()
        labels = [label.get_window_extent() for label in figure.axes[-1].get_xticklabels()]
        assert all(a.x1 < b.x0 for a, b in zip(labels, labels[1:], strict=False))


QUANTITIES = {
    "temperature": "Temperature",
    "kl_q_relative": "E-step KL / bound",
    "kl_mean_relative": "KL of mean / bound",
    "kl_stddev_relative": "KL of stddev / bound",
    "policy_stddev": "Policy stddev",
}
OF_THE_CRITIC = {
    "critic_rank": "Rank of features",
    "sample_age": "Age of samples",
    "critic_step_before_copy": "Step before copy",
    "critic_step_after_copy": "Step after copy",
    "trace_coefficient": "Trace coefficient",
    "trace_length_new": "Trace length, new",
    "trace_length_old": "Trace length, old",
}


def diagnose(study, folder, diverged=(), quantities=QUANTITIES):
    """Gives the runs all diagnostics: 0.1 x (1 + the run's number) + step / 10 000, times a power.

    Runs that diverged end halfway, after numbers of any magnitude and infinite ones.
    """
    number = {run.run_id: index for index, run in enumerate(study.runs)}
    train = tables.read(folder, "train")
    value = 0.1 * (1 + train["run_id"].map(number)) + train["env_step"] / 10_000
    for power, name in enumerate(quantities):
        train[name] = value * 10.0**power
        train.loc[train["env_step"] == 0, name] = np.nan  # before the first update
    retrace = {run.run_id: run.spec.training.retrace for run in study.runs}
    traces = [name for name in quantities if name.startswith("trace")]
    train.loc[~train["run_id"].map(retrace), traces] = np.nan
    ended = train["run_id"].isin([study.runs[index].run_id for index in diverged])
    train.loc[ended & (train["env_step"] == 4000), list(quantities)] = 1e30
    train.loc[ended & (train["env_step"] == 5000), list(quantities)] = np.inf
    tables.write({"train": train[~ended | (train["env_step"] <= 5000)]}, folder)
    runs = tables.read(folder, "runs")
    runs.loc[list(diverged), "status"] = "diverged"
    tables.write({"runs": runs}, folder)


def curves_of(axes):
    """The lines of a panel, without that of the bound."""
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def test_diagnostics_are_means_over_the_seeds_of_an_arm(made):
    study, folder = made()
    diagnose(study, folder)
    figure = diagnostics.draw(study, folder)
    rows = np.reshape(figure.axes, (2, 5))
    looks = style.looks(study)
    assert [a.get_title(loc="left") for a in rows[:, 0]] == [e.id for e in study.environments]
    assert [axes.texts[0].get_text() for axes in rows[0]] == list(QUANTITIES.values())
    for env, row in enumerate(rows):
        for power, (name, axes) in enumerate(zip(QUANTITIES, row, strict=True)):
            lines = curves_of(axes)
            assert len(lines) == len(axes.collections) == 4
            for arm, (line, band) in enumerate(zip(lines, axes.collections, strict=True)):
                assert list(line.get_xdata()) == list(range(1000, 10_001, 1000))
                middle = 0.1 * (2 + 12 * env + 3 * arm)  # the second of three seeds
                expected = (middle + np.arange(1, 11) / 10) * 10.0**power
                assert np.allclose(line.get_ydata(), expected)
                ends = band.get_paths()[0].vertices[:, 1]
                assert ends.min() == pytest.approx((middle - 0.1 + 0.1) * 10.0**power)
                assert ends.max() == pytest.approx((middle + 0.1 + 1) * 10.0**power)
                look = list(looks.values())[arm]
                assert line.get_color() == look.color
            bounds = [line for line in axes.lines if list(line.get_ydata()) == [1, 1]]
            assert len(bounds) == ("relative" in name)
            low, high = axes.get_ylim()
            assert all(low < y < high for line in bounds for y in line.get_ydata())
            logarithmic = name == "temperature" or "relative" in name
            assert axes.get_yscale() == ("log" if logarithmic else "linear")
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [*looks, "Bound"]


def test_a_diverged_run_leaves_the_axes_to_the_others(made):
    study, folder = made(environments=3)
    study = synthetic.lose(study, folder.parent, range(24, 36))
    folder = synthetic.write_tables(study, folder.parent)
    # One seed of the first environment and all of the second diverge; none of the third does.
    diagnose(study, folder, diverged=[1, *range(12, 24)])
    figure = diagnostics.draw(study, folder)
    rows = np.reshape(figure.axes, (3, 5))
    figure.canvas.draw()
    for power, axes in enumerate(rows[0]):
        low, high = axes.get_ylim()
        assert 0 < high < 100 * 10.0**power and high > 2 * 10.0**power
    first = curves_of(rows[0, 0])[0]
    after = first.get_ydata()[np.asarray(first.get_xdata()) == 5000]
    assert after == pytest.approx((0.1 + 0.3) / 2 + 0.5)  # mean of the two remaining seeds
    for axes in rows[1]:
        assert np.isfinite(axes.get_ylim()).all()
        assert all(np.isfinite(line.get_ydata()).all() for line in axes.lines)
    assert {axes.texts[-1].get_text() for axes in rows[2]} == {"no finished run"}


def test_the_critics_figure_has_traces_only_of_arms_with_retrace(made):
    study, folder = made()
    diagnose(study, folder, quantities=OF_THE_CRITIC)
    figure = critic.draw(study, folder)
    rows = np.reshape(figure.axes, (2, 7))
    assert [axes.texts[0].get_text() for axes in rows[0]] == list(OF_THE_CRITIC.values())
    for row in rows:
        for name, axes in zip(OF_THE_CRITIC, row, strict=True):
            assert len(curves_of(axes)) == (2 if name.startswith("trace") else 4)
            logarithmic = name == "sample_age" or "step" in name
            assert axes.get_yscale() == ("log" if logarithmic else "linear")
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [*style.looks(study)]
    assert "Trace coefficient" in critic.caption(study, folder)


def test_the_critics_figure_without_updates_or_without_retrace(made):
    study, folder = made(environments=1, axes={"retrace": [False], "optimizer": ["adam", "sgd"]})
    diagnose(study, folder, quantities=OF_THE_CRITIC)
    assert len(critic.draw(study, folder).axes) == 4
    assert "Trace coefficient" not in critic.caption(study, folder)
    bare = tables.read(folder, "train").drop(columns=[*QUANTITIES, *OF_THE_CRITIC])
    tables.write({"train": bare}, folder)
    for figure, name in ((critic, "Critic"), (diagnostics, "Diagnostics")):
        words = f"{name}: no network has been updated."
        assert figure.draw(study, folder).texts[0].get_text() == words
        assert figure.caption(study, folder) == words


def test_many_arms_have_no_bands_in_the_diagnostics(made):
    study, folder = made(environments=1, axes={**TWO_OPTIMIZERS, "gamma": [0.9, 0.95, 0.99]})
    diagnose(study, folder)
    figure = diagnostics.draw(study, folder)
    assert [len(curves_of(axes)) for axes in figure.axes] == [12, 12, 12, 12, 12]
    assert not any(axes.collections for axes in figure.axes)
    assert "band" not in diagnostics.caption(study, folder)


def test_q_bias_shows_every_seed_the_mean_its_interval_and_zero(made):
    study, folder = made()
    own = np.where(np.arange(24) < 12, 4.0 + np.arange(24) % 3, -2.0)  # 4, 5, 6 in each arm; -2
    synthetic.change(folder, "runs", q_bias=own)
    figure = q_bias.draw(study, folder)
    first, second = figure.axes
    for axes, mean in ((first, 5.0), (second, -2.0)):
        dots = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
        assert len(dots) == 12 and dots[:, 0].mean() == pytest.approx(mean)
        assert [line.get_xdata()[0] for line in axes.lines if line.get_zorder() == 3] == [mean] * 4
        low, high = axes.get_xlim()
        assert low < 0 < high  # the line that tells over- from underestimation
        assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)
    ends = [list(line.get_xdata()) for line in first.lines if line.get_zorder() == 1]
    half = 4.302653 / 3**0.5  # t(0.975, 2) s / sqrt(n), with s = 1
    assert ends[0] == pytest.approx([5 - half, 5 + half])


def test_runs_without_a_critic_have_no_q_bias(made):
    study, folder = made()
    lone = np.where(np.arange(24) < 23, np.nan, 1.5)
    synthetic.change(folder, "runs", q_bias=lone)
    empty, other = q_bias.draw(study, folder).axes
    assert "no critic" in [text.get_text() for text in empty.texts]
    assert [c.get_offsets()[0, 0] for c in other.collections if len(c.get_offsets())] == [1.5]
    assert "one seed" in q_bias.caption(study, folder)
    older = tables.read(folder, "runs").drop(columns=["q_bias", "q_bootstrap"])
    tables.write({"runs": older}, folder)
    words = "Bias of Q: no run has been evaluated together with its critic."
    assert q_bias.draw(study, folder).texts[0].get_text() == words
    assert q_bias.caption(study, folder) == words


COSTS = {
    "wall_s": "Training (s per run)",
    "updates_per_s": "Updates per second",
    "eval_s": "Evaluation (s per run)",
    "max_rss_mb": "Peak memory (MB)",
}


@pytest.mark.parametrize(
    "name", first_of(["usual", "one of each", "twelve arms", "fifteen environments"])
)
def test_costs_show_every_seed_and_the_means(made, name):
    study, folder = made(**STUDIES[name])
    count = len(study.runs)
    own = {cost: np.arange(count) ** 2 + 10.0 * (1 + k) for k, cost in enumerate(COSTS)}
    runs = synthetic.change(folder, "runs", **own)
    figure = costs.draw(study, folder)
    assert [axes.get_xlabel() for axes in figure.axes] == list(COSTS.values())
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    environments = [e.id for e in study.environments]
    assert labels == environments
    for axes, cost in zip(figure.axes, COSTS, strict=True):
        marks = [line for line in axes.lines if line.get_linestyle() == "None"]
        low, high = axes.get_xlim()
        for index, (arm, look) in enumerate(style.looks(study).items()):
            seeds, means = marks[2 * index : 2 * index + 2]
            of_arm = runs[runs["arm"] == arm]
            assert list(seeds.get_xdata()) == list(of_arm[cost])
            assert [environments[round(y)] for y in seeds.get_ydata()] == list(of_arm["env"])
            expected = of_arm.groupby("env")[cost].mean()
            shown = {environments[round(y)]: x for x, y in means.get_xydata()}
            assert shown == pytest.approx(expected.to_dict())
            assert (means.get_color(), means.get_marker()) == (look.color, look.marker)
            assert means.get_fillstyle() == "none"
            assert low < min(seeds.get_xdata()) and max(seeds.get_xdata()) < high
        logarithmic = own[cost].max() >= 20 * own[cost].min()
        assert axes.get_xscale() == ("log" if logarithmic else "linear")
        assert logarithmic or low == 0


def test_costs_say_where_no_run_has_finished(made):
    study, folder = made(environments=3)
    study = synthetic.lose(study, folder.parent, [3, 4, 5, *range(24, 36)])
    figure = costs.draw(study, synthetic.write_tables(study, folder.parent))
    (text,) = figure.axes[0].texts
    assert text.get_text() == "no finished run" and text.get_position()[1] == 2
    marks = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in marks[2:4]] == [3, 1]  # the arm missing in one env
