import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mpo import figures, tables
from mpo.figures import final_scores, learning_curves, style
from tests import synthetic

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
    "effects": (*T_OF_THREE, "stratified bootstrap interval (500 resamples)"),
    "aggregates": ("2 environments (at least 6 runs an arm)", "of 500 resamples"),
    "profiles": ("at least 6 runs an arm", "of 2000 resamples"),
    "improvements": ("above one of Retrace off, adam", "500 resamples"),
}
ALONE = {
    "learning_curves": "no interval",
    "final_scores": "no interval",
    "effects": "no factor is varied",
    "aggregates": "at least 1 run an arm",
    "profiles": "at least 1 run an arm",
    "improvements": "no two arms",
}
"""What a caption says of one arm, one environment and one seed."""

WITH_GAPS = {
    "learning_curves": "n = 0 to 3 seeds",
    "final_scores": "n = 0 to 3 seeds",
    "effects": "n = 2 to 3 seeds",
    # Of the one environment in which every arm has a run.
    "aggregates": "over 1 environment (at least 3 runs an arm)",
    "profiles": "at least 3 runs an arm",
    "improvements": "at least 3 runs an arm",
}
"""Likewise where runs are missing."""


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Each study with its tables."""
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


@pytest.mark.parametrize("name", STUDIES)
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


@pytest.mark.parametrize("name", STUDIES)
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
        bottom, top = axes.get_ylim()  # every row whole, the first arm on top
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
    """Two seeds far apart: their interval is some thirteen times as wide as their range."""
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


@pytest.mark.parametrize("module", [learning_curves, final_scores])
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
    # A seed of the first arm, all of the second, and the whole last environment.
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


@pytest.mark.parametrize("name", figures.FIGURES)
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
