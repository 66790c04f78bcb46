"""What is left of a study and what it will cost, in words: for its status, and while it runs."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mpo.study import calibration
from mpo.study.plan import Study
from mpo.study.remaining import Cost, Work, costs, estimate, work_left
from mpo.study.status import FINISHED, RunStatus, run_status
from mpo.study.words import duration, plural, size

_BETWEEN_S = 60.0
"""Seconds between two looks at a running study."""
_SHARE = 0.05
"""Largest share of the time that looking may take."""


class Progress:
    """Says what is left of a study while it runs; reads what a finished run has cost once."""

    def __init__(self, studies: Callable[[], Iterable[Study]], root: Path, cores: int) -> None:
        """Stores the arguments.

        Args:
            studies: returns the rungs of tuning, if there are any, and the study, as they are now.
            root: the directory that contains `results/`.
            cores: how many the study may use.
        """
        self._studies, self._root, self._cores = studies, root, min(cores, cores_here())
        self._known: dict[tuple[str, str], list[Cost]] = {}
        self._due = -math.inf

    def said(self) -> str | None:
        """Returns what is left; None if nothing is, or if it was asked for a short while ago."""
        start = time.monotonic()
        if start < self._due:
            return None
        text = self._said()
        end = time.monotonic()
        self._due = end + max(_BETWEEN_S, (end - start) / _SHARE)
        return text

    def _said(self) -> str | None:
        parts, known = {}, list[Cost]()
        for study in self._studies():
            new = [run for run in study.runs if (study.study, run.run_id) not in self._known]
            found = [run_status(run, self._root) for run in new]
            for s in found:
                if s.status in FINISHED:
                    cost = costs(study, [s], self._root)
                    self._known[study.study, s.run.run_id] = cost
            rest = [s for s in found if s.status not in FINISHED]
            parts[study.study] = work_left(study, rest, self._root)
            own = [cost for (name, _), cost in self._known.items() if name == study.study]
            known += [each for cost in own for each in cost] + costs(study, rest, self._root)
            known += _calibrated(study, self._root, known)
        return _in_words(parts, known, self._cores)


def of_status(stages: Sequence[tuple[Study, list[RunStatus]]], root: Path) -> str | None:
    """Says what is left of a study and what it will cost; None if nothing is.

    Args:
        stages: the rungs of tuning, if there are any, and the study, with the status of each run.
        root: the directory that contains `results/`.
    """
    parts = {study.study: work_left(study, found, root) for study, found in stages}
    known = [cost for study, found in stages for cost in costs(study, found, root)]
    for study, _ in stages:
        known += _calibrated(study, root, known)
    return _in_words(parts, known, cores_here())


def _calibrated(study: Study, root: Path, known: Sequence[Cost]) -> list[Cost]:
    """What a calibration tells of cells of which no run does."""
    there = {(cost.env, cost.variant) for cost in known}
    found = calibration.read(study, root)
    return [
        Cost(*place, False, *rates, calibrated=True)
        for place, rates in found.items()
        if place not in there
    ]


def _in_words(parts: Mapping[str, Sequence[Work]], known: Sequence[Cost], cores: int) -> str | None:
    """Says what work there is and what it will cost; None if there is none.

    Args:
        parts: by the name of their study, stages that come one after the other; those before the
            last are of tuning.
        known: what runs have cost.
        cores: how many there are.
    """
    if not any(parts.values()):
        return None
    rest = estimate([*parts.values()], known, cores)
    *of_tuning, _ = parts
    tuned = any(parts[name] for name in of_tuning)
    tuning = f", with the tuning in {of_tuning[-1]}" if tuned else ""
    counts = f"{plural(rest.trainings, 'training')} and {plural(rest.evaluations, 'evaluation')}"
    left, of_evaluations = f"Left{tuning}: {counts}", rest.evaluation_s
    if math.isnan(rest.training_s) or (not rest.trainings and math.isnan(of_evaluations)):
        when = "a training has begun to learn" if rest.trainings else "a run has been evaluated"
        return (
            f"{left}. What they will cost is not known yet; it will be once {when}, or after "
            "`snakemake --cores 1 calibrate`."
        )
    core_s = rest.training_s + (0.0 if math.isnan(of_evaluations) else of_evaluations)
    text = f"{left}, about {duration(core_s, 'core-')}"
    if math.isnan(of_evaluations):
        text += " without the evaluations, of which none is done yet"
    text += f". With {plural(cores, 'core')} of this machine that is {duration(rest.span_s)}"
    if not math.isnan(rest.bytes):
        text += f", and {size(rest.bytes)} of disk"
    finished = sum(cost.finished for cost in known)
    calibrated = sum(cost.calibrated for cost in known)
    going = f"{len(known) - finished - calibrated} in progress"
    done = f"{plural(finished, 'finished training')} and {going}"
    if calibrated:
        done = f"{plural(finished, 'finished training')}, {going} and a calibration of "
        done += plural(calibrated, "cell")
    return f"{text}. Estimated from {done}."


def cores_here() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
