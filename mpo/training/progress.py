"""Progress of long work: a bar on a terminal, or a line now and then in a log."""

import io
import logging
import sys
from collections.abc import Mapping

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0

# tqdm would start a thread to watch over slow bars; a training process has no use for it.
tqdm.monitor_interval = 0


class _LogStream(io.TextIOBase):
    """Hands each of tqdm's lines to the log."""

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            logger.info(line)
        return len(text)


def progress(label: str, total: int, initial: int = 0, unit: str = "steps") -> tqdm:
    """A tqdm, shown as lines where the log has a handler of its own, else as a bar on a terminal.

    Args:
        label: what is at work.
        total: units in all.
        initial: units already done.
        unit: what is counted.
    """
    unit = f" {unit}"
    if not logger.hasHandlers() and sys.stderr.isatty():
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
    """One line, `name=value` in the order given, four significant digits."""
    return " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
