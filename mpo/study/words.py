"""Counts, times and sizes in words, for messages and pages."""


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 run", "2 runs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float, unit: str = "") -> str:
    """A time in hours or minutes; `unit` precedes these, as in core-hours."""
    hours = seconds / 3600
    return f"{_number(hours)} {unit}hours" if hours >= 1 else f"{_number(60 * hours)} {unit}minutes"


def size(count: float) -> str:
    """A number of bytes in GB, MB or kB."""
    scale, unit = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{_number(count / scale)} {unit}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
