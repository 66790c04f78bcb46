"""The figures of a study by name; drawing libraries are imported when one is drawn."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpo.study import Study

FIGURES = {
    "learning_curves": "mpo.figures.learning_curves",
    "final_scores": "mpo.figures.final_scores",
    "effects": "mpo.figures.effects",
    "aggregates": "mpo.figures.aggregates",
    "profiles": "mpo.figures.profiles",
    "improvements": "mpo.figures.improvements",
}
"""A figure's name -> the module with its `draw(study, tables)` and `caption(study, tables)`."""

# The time of drawing would make equal figures differ.
_TIMELESS = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}


def draw(name: str, study: "Study", tables: Path, outputs: Sequence[Path]) -> None:
    """Draws a figure from the tables in a folder and saves it to every output.

    Equal tables give equal bytes. A suffix of an output (.pdf, .svg, .png) says its format.

    Raises:
        ValueError: no figure has that name, or no format that suffix.
    """
    module = _module(name)
    for output in outputs:
        if output.suffix not in _TIMELESS:
            raise ValueError(f"unknown format of {output}; choose from {', '.join(_TIMELESS)}")
    import matplotlib
    from matplotlib import pyplot

    from mpo.figures import style
    from mpo.files import replacing

    with matplotlib.rc_context(style.RC):
        figure = module.draw(study, tables)
        for output in outputs:
            kind = output.suffix.removeprefix(".")
            with replacing(output) as path:
                figure.savefig(path, format=kind, metadata=_TIMELESS[output.suffix])
        pyplot.close(figure)


def caption(name: str, study: "Study", tables: Path) -> str:
    """What a figure shows, with its interval, its seeds and its episodes.

    Raises:
        ValueError: no figure has that name.
    """
    return str(_module(name).caption(study, tables))


def _module(name: str) -> ModuleType:
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}; choose from {', '.join(FIGURES)}")
    return importlib.import_module(FIGURES[name])
