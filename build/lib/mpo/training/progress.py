"""Progress of long work: a bar on a terminal, or an occasional line in a log."""

import io
import logging
import sys
from collections.abc import Mapping

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0

# Otherwise tqdm starts a thread that watches slow bars; a training process does not need it.
tqdm.monitor_interval = 0


class _LogStream(io.TextIOBase):
    """A text stream that logs each line tqdm writes."""

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            logger.info(line)
        return len(text)


def progress(label: str, total: int, initial: int = 0, unit: str = "steps") -> tqdm:
    """Makes a tqdm progress bar: log lines if logging has a handler or stderr is no terminal.

    Args:
        label: name of the work, shown first.
        total: number of units.
        initial: units already done.
        unit: name of the units.
    """
    unit = f" {unit}"
    if not logger.hasHandlers() and sys.stderr and sys.stderr.isatty():
        return tqdm(total=total, initial=initial, desc=label, unit=unit, dynamic_ncols=True)
    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=unit,
        file=_LogStream(),
        mininterval=_SECONDS_BETWEEN_LINES,
        ascii=True,
        bar_format="{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}{postfix}, ETA {remaining}",
    )


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Formats metrics as `name=value ...` in the given order, with four significant digits."""
    return " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
