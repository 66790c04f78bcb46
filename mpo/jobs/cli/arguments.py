"""Types of the verbs' arguments: each refuses a value that no verb can use, and says what it takes.

argparse puts the name of the option before their messages.
"""

import math
import os
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from mpo.study.config import MAX_COUNT, MAX_SECONDS, MAX_SEED, MAX_THREADS, ConfigError
from mpo.study.files import RUN_FILES
from mpo.study.paths import Place
from mpo.study.specs import Spec

_WRITTEN = ("caption", "out", "log")
"""Options with files that are written."""


def whole(low: int, high: int = MAX_COUNT) -> Callable[[str], int]:
    """Returns the type of whole numbers in a range, both ends included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ArgumentTypeError(
                f"expected a whole number from {low} to {high}, received {_shown(text)}"
            )
        return value

    return parse


positive = whole(1)
threads = whole(1, MAX_THREADS)


def seconds(text: str) -> float:
    """Reads a duration in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SECONDS:
        raise ArgumentTypeError(
            f"expected seconds above 0, at most {MAX_SECONDS}, received {_shown(text)}"
        )
    return value


def day(text: str) -> date:
    """Reads a day of the calendar."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"expected a day such as 2027-01-31, received {_shown(text)}"
        ) from None


def spdx(text: str) -> str:
    """Reads the identifier of a licence; whether SPDX lists it is not checked."""
    if not re.fullmatch("[A-Za-z0-9.+-]+", text):
        raise ArgumentTypeError(
            f"expected an SPDX identifier such as CC-BY-4.0, received {_shown(text)}"
        )
    return text


def spec(kind: type[Spec]) -> Callable[[str], str]:
    """Returns the type of texts that are a spec as JSON."""

    def parse(text: str) -> str:
        try:
            kind.parse(text)
        except ConfigError as error:
            problems = "; ".join(str(error).splitlines())
            raise ArgumentTypeError(f"expected {kind.__name__} as JSON: {problems}") from None
        return text

    return parse


def existing_file(text: str) -> Path:
    """Reads the path of a file that is there."""
    path = Path(text)
    if path.is_dir() or not path.exists():
        what = "a folder" if path.is_dir() else "nothing"
        raise ArgumentTypeError(f"expected a file, received {what} at {_shown(text)}")
    return path


def existing_folder(text: str) -> Path:
    """Reads the path of a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise ArgumentTypeError(f"expected a folder, received {what} at {_shown(text)}")
    return path


def existing(text: str) -> Path:
    """Reads the path of a file or a folder that is there."""
    path = Path(text)
    if not (path.is_file() or path.is_dir()):
        raise ArgumentTypeError(f"expected a file or a folder, received {_shown(text)}")
    return path


def new_file(*endings: str) -> Callable[[str], Path]:
    """Returns the type of files to write, with one of some endings if any are given."""

    def parse(text: str) -> Path:
        path = Path(text)
        if endings and path.suffix not in endings:
            raise ArgumentTypeError(
                f"expected a name that ends in {' or '.join(endings)}, received {_shown(text)}"
            )
        if path.is_dir():
            raise ArgumentTypeError(f"expected a file to write, received the folder {_shown(text)}")
        if path.exists() and not path.is_file():  # a new file would take the device's place
            raise ArgumentTypeError(
                f"expected a file to write, received a device or pipe, {_shown(text)}"
            )
        _refuse_below_a_file(path, text)
        return path

    return parse


def picture_of(figures: Collection[str]) -> Callable[[str], Path]:
    """Returns the type of PNG files that are named like a figure."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix != ".png" or path.stem not in figures:
            raise ArgumentTypeError(
                f"expected FIGURE.png, with a figure from {', '.join(figures)}, received "
                f"{_shown(text)}"
            )
        return path

    return parse


def new_folder(text: str) -> Path:
    """Reads the path of a folder to write to, which is made if it is not there."""
    path = Path(text)
    _refuse_below_a_file(path / "file", text)
    return path


def run(text: str) -> Place:
    """Reads the directory of a run."""
    try:
        place = Place.parse(Path(text))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if not 0 <= place.seed <= MAX_SEED:
        raise ArgumentTypeError(f"expected a seed from 0 to {MAX_SEED}, received {_shown(text)}")
    if not 1 <= place.total_steps <= MAX_COUNT:
        raise ArgumentTypeError(
            f"expected a budget from 1 to {MAX_COUNT} steps, received {_shown(text)}"
        )
    return place


def finished_run(text: str) -> Place:
    """Reads the directory of a run that is there."""
    existing_folder(text)
    return run(text)


def file_of_run(text: str) -> Place:
    """Reads the path of a file in the directory of a run."""
    new_file()(text)
    return run(os.path.dirname(text))


def repeated(places: Sequence[Place]) -> str | None:
    """Returns what is wrong with runs to be trained together: one is given twice; or None."""
    seen = set()
    for place in places:
        path = os.path.realpath(place.directory)
        if path in seen:
            return f"expected each run once, received {place.directory} twice"
        seen.add(path)
    return None


def overwritten(args: Namespace) -> str | None:
    """Returns what is wrong with the files to write: one is given twice, or is read; or None."""
    seen: dict[str, str] = {}
    names = [*(name for name in vars(args) if name not in _WRITTEN), *_WRITTEN]
    for name in names:
        for path in map(os.path.realpath, _files(getattr(args, name, None))):
            if path in seen and name in _WRITTEN:
                return f"argument --{name}: {path} is already given by --{seen[path]}"
            seen[path] = name
    return None


def _files(value: Any) -> Iterator[Path]:
    """The files that an argument stands for; a folder may be that of a run."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Path):
            yield part
        folder = part.directory if isinstance(part, Place) else part
        if isinstance(folder, Path):
            yield from (folder / name for name in RUN_FILES)


def _refuse_below_a_file(path: Path, text: str) -> None:
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise ArgumentTypeError(
                    f"expected a path in a folder, received {_shown(text)}; {parent} is a file"
                )
            return


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 200 else f"{text[:60]!r}... ({len(text)} characters)"
