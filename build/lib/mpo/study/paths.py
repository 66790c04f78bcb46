"""Where each run's files are below `results/`.

    results/STUDY/runs/ENVIRONMENT/VARIANT/seedN/stepM/          results
    results/STUDY/status/ENVIRONMENT/VARIANT/seedN/stepM.json    status of its jobs
    results/STUDY/logs/ENVIRONMENT/VARIANT/seedN/stepM/VERB.log  logs of its jobs
    results/.resume/ENVIRONMENT/VARIANT/DIGEST/seedN/            state that training resumes from

The paths are the same whether a run is trained alone or in one process with other seeds.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self


@dataclass(frozen=True)
class Place:
    """The coordinates of one run, from which all its paths are built."""

    FORM: ClassVar[str] = "results/STUDY/runs/ENVIRONMENT/VARIANT/seedN/stepM"
    """The form of a run's directory."""

    study: str
    env_slug: str
    """The environment, as it is written in paths."""
    variant: str
    """The settings that differ between the study's cells, as they are written in paths."""
    seed: int
    total_steps: int
    """The training budget, in environment steps."""
    results: Path = Path("results")

    @classmethod
    def parse(cls, directory: Path) -> Self:
        """Parses a run's directory; the inverse of `directory`.

        Raises:
            ValueError: the directory does not have the form `FORM`.
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
            raise ValueError(f"a run's directory has the form {cls.FORM}, received {directory}")
        return place

    @property
    def cell_id(self) -> str:
        """`environment/variant`, shared by all seeds of a cell."""
        return f"{self.env_slug}/{self.variant}"

    @property
    def run_id(self) -> str:
        """`environment/variant/seedN`, unique in the study; also the run's path below `runs/`."""
        return f"{self.cell_id}/seed{self.seed}"

    @property
    def directory(self) -> Path:
        """The directory of the run's results at this budget."""
        return self._below("runs")

    @property
    def status_file(self) -> Path:
        """The file in which the run's jobs report their status; see `mpo.jobs.heartbeat`."""
        return self._below("status").with_suffix(".json")

    def log(self, verb: str) -> Path:
        """Returns the log file of one of the run's jobs, `train` or `evaluate`."""
        return self._below("logs") / f"{verb}.log"

    def resume_directory(self, cell: str) -> Path:
        """Returns the directory of the state that training resumes from.

        It depends on neither the budget nor the study: a longer budget continues from a shorter
        one, and studies that plan the same run share its state.

        Args:
            cell: the identity of everything that shapes the run except its seed.
        """
        digest = hashlib.sha256(cell.encode()).hexdigest()[:12]
        folder = self.results / ".resume" / self.env_slug / self.variant / digest
        return folder / f"seed{self.seed}"

    def _below(self, folder: str) -> Path:
        return self.results / self.study / folder / self.run_id / f"step{self.total_steps}"
