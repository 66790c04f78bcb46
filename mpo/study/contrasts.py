"""Primary contrasts: the comparisons of a study that are named before it is run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mpo.study.cells import axis_value
from mpo.study.config import ConfigError, Section


class Contrast(Section):
    """A comparison that the study was made for, as a config names it."""

    axis: str
    """An axis with several values, or `bundle`."""

    level: Any = None
    """The value whose effect is asked for. If it is left out, every other value of the axis is
    compared with `against`, each as a contrast of its own."""

    against: Any
    """The value that it is compared with: any of the axis, not only the first."""


class Comparison(NamedTuple):
    """A value of an axis against another, both as `Study.axis_values` has them."""

    axis: str
    level: Any
    against: Any


def comparisons(
    contrasts: Sequence[Contrast], axis_values: Mapping[str, Sequence[Any]]
) -> tuple[Comparison, ...]:
    """Returns the comparisons that the contrasts of a config stand for.

    Args:
        contrasts: what the config names.
        axis_values: the study's axes with their values.

    Raises:
        ConfigError: an axis is not varied, a value is not one of its axis, or two contrasts ask the
            same, in either direction.
    """
    found: list[Comparison] = []
    for index, contrast in enumerate(contrasts):
        where = f"contrasts.{index}"
        for each in _compared(where, contrast, axis_values):
            if each in found or Comparison(each.axis, each.against, each.level) in found:
                raise ConfigError(
                    f"{where}: expected every contrast once, received {each.axis} {each.level!r} "
                    f"against {each.against!r} again"
                )
            found.append(each)
    return tuple(found)


def _compared(
    where: str, contrast: Contrast, axis_values: Mapping[str, Sequence[Any]]
) -> Iterator[Comparison]:
    varied = {axis: values for axis, values in axis_values.items() if len(values) > 1}
    if contrast.axis not in varied:
        raise ConfigError(
            f"{where}.axis: expected an axis with several values "
            f"({', '.join(varied) or 'there is none'}), received {contrast.axis!r}"
        )
    values = varied[contrast.axis]
    against = axis_value(f"{where}.against", contrast.axis, contrast.against, values)
    levels = [value for value in values if value != against]
    if "level" in contrast.model_fields_set:  # null may be a value of the axis
        levels = [axis_value(f"{where}.level", contrast.axis, contrast.level, levels)]
    for level in levels:
        yield Comparison(contrast.axis, level, against)
