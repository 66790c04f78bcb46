"""Where the files of a run are: every path below `results/` that belongs to one, made from one.

    results/STUDY/runs/ENVIRONMENT/VARIANT/seedN/stepM/     what it leaves
    results/STUDY/status/ENVIRONMENT/VARIANT/seedN/stepM.json
    results/STUDY/logs/ENVIRONMENT/VARIANT/seedN/stepM/VERB.log
    results/.resume/ENVIRONMENT/VARIANT/DIGEST/seedN/       what it resumes from

A run keeps its places whatever trains it: alone, or in one process with other seeds.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self


@dataclass(frozen=True)
class Place:
    """Where one run stands."""

    FORM: ClassVar[str] = "results/STUDY/runs/ENVIRONMENT/VARIANT/seedN/stepM"

    study: str
    env_slug: str
    variant: str
    seed: int
    total_steps: int
    results: Path = Path("results")

    @classmethod
    def parse(cls, directory: Path) -> Self:
        """Reads a run's place back from its directory.

        Raises:
            ValueError: the directory is not of the form above.
        """
        try:
            *_, study, runs, env_slug, variant, seed, steps = directory.parts
            place = cls(
                study,
                env_slug,
                variant,
                int(seed.removeprefix("seed")),
                int(steps.removeprefix("step")),
                Path(*directory.parts[:-6]),
            )
        except ValueError:
            place = None
        if place is None or place.directory != directory:
            raise ValueError(f"a run's directory is {cls.FORM}, received {directory}")
        return place

    @property
    def cell_id(self) -> str:
        """`environment/variant`: the same for all seeds of a cell."""
        return f"{self.env_slug}/{self.variant}"

    @property
    def run_id(self) -> str:
        """`environment/variant/seedN`: unique in the study, and its path below `runs/`."""
        return f"{self.cell_id}/seed{self.seed}"

    @property
    def directory(self) -> Path:
        """Where the results at this budget are."""
        return self._below("runs")

    @property
    def status_file(self) -> Path:
        """What the run's jobs say of themselves while they run; see `mpo.jobs.heartbeat`."""
        return self._below("status").with_suffix(".json")

    def log(self, verb: str) -> Path:
        """Where a job of the run, `train` or `evaluate`, writes its log."""
        return self._below("logs") / f"{verb}.log"

    def resume_directory(self, cell: str) -> Path:
        """What training goes on from, at any budget; studies that plan the same run share it.

        Args:
            cell: the identity of all that shapes the run but its seed.
        """
        digest = hashlib.sha256(cell.encode()).hexdigest()[:12]
        folder = self.results / ".resume" / self.env_slug / self.variant / digest
        return folder / f"seed{self.seed}"

    def _below(self, folder: str) -> Path:
        return self.results / self.study / folder / self.run_id / f"step{self.total_steps}"
