"""The figures of a study, by name; plotting libraries are imported only when drawing."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpo.study.plan import Study

FIGURES = {
    "learning_curves": "mpo.report.figures.learning_curves",
    "final_scores": "mpo.report.figures.final_scores",
    "effects": "mpo.report.figures.effects",
    "aggregates": "mpo.report.figures.aggregates",
    "profiles": "mpo.report.figures.profiles",
    "improvements": "mpo.report.figures.improvements",
    "sample_efficiency": "mpo.report.figures.sample_efficiency",
    "cost_curves": "mpo.report.figures.cost_curves",
    "planned_runs": "mpo.report.figures.planned_runs",
    "diagnostics": "mpo.report.figures.diagnostics",
    "critic": "mpo.report.figures.critic",
    "q_bias": "mpo.report.figures.q_bias",
    "costs": "mpo.report.figures.costs",
}
"""Maps a figure's name to the module with `draw(study, tables)` and `caption(study, tables)`."""

TUNING_FIGURES = {"sensitivity": "mpo.report.figures.sensitivity"}
"""The same for the study of a tuning stage."""

# For each format: the metadata key of a description, and the timestamps to leave out, because they
# would make equal figures differ.
_METADATA = {
    ".pdf": ("Subject", {"CreationDate": None}),
    ".svg": ("Description", {"Date": None}),
    ".png": ("Description", {}),
}


def draw(name: str, study: "Study", tables: Path, outputs: Sequence[Path]) -> None:
    """Draws a figure from a study's tables and saves it to every output.

    A file's metadata record its runs, and the commits and packages that made the runs and the
    figure. At the same commit, equal tables give equal bytes.

    Args:
        name: name of the figure, see `FIGURES` and `TUNING_FIGURES`.
        study: the study's plan.
        tables: the directory of its tables.
        outputs: files to write; the suffix (.pdf, .svg, .png) selects the format.

    Raises:
        ValueError: unknown figure or suffix.
    """
    module = _module(name)
    for output in outputs:
        if output.suffix not in _METADATA:
            raise ValueError(f"unknown format of {output}; choose from {', '.join(_METADATA)}")
    import matplotlib
    from matplotlib import pyplot

    from mpo.report.figures import style
    from mpo.study.files import replacing

    origin = _origin(study, tables)
    with matplotlib.rc_context(style.RC):
        figure = module.draw(study, tables)
        for output in outputs:
            kind, (key, timeless) = output.suffix.removeprefix("."), _METADATA[output.suffix]
            with replacing(output) as path:
                figure.savefig(path, format=kind, metadata={key: origin, **timeless})
        pyplot.close(figure)


def caption(name: str, study: "Study", tables: Path) -> str:
    """The caption of a figure: what it shows, its intervals, seeds and episodes.

    Raises:
        ValueError: unknown figure.
    """
    return str(_module(name).caption(study, tables))


def caption_rst(name: str, study: "Study", tables: Path) -> str:
    """The caption as reStructuredText, for the Snakemake report.

    Snakemake reads it as a Jinja template, so that braces are written as expressions.
    """
    text = " ".join(caption(name, study, tables).split())
    text = re.sub(r"([\\*`_|])", r"\\\1", text)
    return text.replace("{", "{{ '{' }}") + "\n"


def _origin(study: "Study", tables: Path) -> str:
    """Describes a figure's runs, and the commits and packages that made the runs and the figure."""
    from mpo.analysis.tables import read
    from mpo.provenance import commit, packages

    runs = read(tables, "runs").dropna(subset="git_sha")
    commits = ", ".join(runs["git_sha"].unique())
    versions = ", ".join(f"{k} {v}" for k, v in packages(("matplotlib", "seaborn")).items())
    return (
        f"Study {study.study}: {len(runs)} runs, trained at commit {commits}; "
        f"drawn at commit {commit()}, with {versions}"
    )


def _module(name: str) -> ModuleType:
    modules = FIGURES | TUNING_FIGURES
    if name not in modules:
        raise ValueError(f"unknown figure {name!r}; choose from {', '.join(modules)}")
    return importlib.import_module(modules[name])
