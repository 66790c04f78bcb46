"""What arms and values are called in tables and figures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpo.study.cells import CORE_AXES

if TYPE_CHECKING:
    from mpo.study.plan import Study


def arm_label(study: "Study", arm: Mapping[str, Any]) -> str:
    """Names an arm by the axes that the study varies, e.g. "Retrace on, adam, gamma 0.95".

    The arm of a single-arm study is named by the core axes.
    """
    return label({name: arm[name] for name in study.varied or CORE_AXES if name in arm})


def label(values: Mapping[str, Any]) -> str:
    """Names some values, see `words`."""
    return ", ".join(words(name, value) for name, value in values.items())


def words(name: str, value: Any) -> str:
    """Names the value of an axis, e.g. "Retrace on", "gamma 0.95"."""
    if name == "optimizer":
        return str(value)
    said = ("on" if value else "off") if isinstance(value, bool) else text(value)
    return f"{'Retrace' if name == 'retrace' else name.replace('_', ' ')} {said}"


def text(value: Any) -> str:
    """Formats a value; of numbers the first 12 digits."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(flat(value))


def flat(value: Any) -> Any:
    """Converts a value for a table cell: a tuple becomes text such as 64x64."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else value
