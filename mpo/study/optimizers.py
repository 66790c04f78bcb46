"""What an optimizer is: a built-in, a class to import, or one for matrices and one for the rest.

An arm of `optimizers` in the config says it; the spec of a run with such an arm contains it. The
class is imported where it is tried and used, in `mpo/algorithm/optimizers/`.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_serializer, model_validator

from mpo.study.config import (
    ConfigError,
    Positive,
    Section,
    check_keys,
    explain,
    refuse_other_than_json,
)

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop", "lion"]
BUILT_IN: tuple[str, ...] = get_args(OptimizerName)

ARM = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
"""Names of arms; they end up in paths."""

ARM_KEYS = ("class", "settings", "matrices", "rest")
"""Keys of an arm that say what its optimizer is."""

IMPORT_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$"
"""module.Class, as in torch.optim.NAdam."""

_SET_HERE = {
    "params": "the program passes the parameters",
    "lr": "the learning rates are policy_lr and q_lr",
}
"""Arguments of an optimizer that its settings cannot contain."""


def choices(*more: str) -> str:
    """Returns the names of optimizers as text, first those of arms, then the built-in ones."""
    *most, last = map(repr, (*more, *BUILT_IN))
    return f"{', '.join(most)} or {last}"


class Part(Section):
    """One optimizer: a built-in, or a class to import, with its settings."""

    name: str = Field(alias="class")
    """`adam`, `adamw`, `sgd`, `rmsprop` or `lion`, or the import path of a subclass of
    `torch.optim.Optimizer`, such as `torch.optim.NAdam` or `my_module.MyOptimizer`."""

    settings: dict[str, Any] = {}
    """Keyword arguments of an imported class, but for parameters and learning rate; a list arrives
    as a tuple. A built-in has none: its settings are keys of `training`."""

    lr_factor: Positive = 1.0
    """Factor on `policy_lr` and `q_lr` in this part. Only in `matrices` and `rest`."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            check_keys(data, ["class", "settings", "lr_factor"])
        return data

    @field_validator("name")
    @classmethod
    def _importable(cls, value: str) -> str:
        if value not in BUILT_IN and not re.fullmatch(IMPORT_PATH, value, re.ASCII):
            raise ValueError(f"expected an import path, module.Class, or {choices()}")
        return value

    @field_validator("settings")
    @classmethod
    def _keyword_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, part in value.items():
            if not name.isidentifier():
                raise ValueError(f"expected names of arguments, found {name!r}")
            if name in _SET_HERE:
                raise ValueError(f"{name!r} cannot be set here: {_SET_HERE[name]}")
            refuse_other_than_json(name, part)
        return value

    @model_validator(mode="after")
    def _built_ins_are_set_in_training(self) -> "Part":
        if self.built_in and self.settings:
            raise ValueError(
                f"settings: those of the built-in {self.name!r} are keys of `training`, such as "
                f"adam_beta1 or sgd_momentum; received {self.settings}"
            )
        return self

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        found: dict[str, Any] = {"class": self.name}
        if self.settings:
            found["settings"] = self.settings
        if self.lr_factor != 1:
            found["lr_factor"] = self.lr_factor
        return found

    @property
    def built_in(self) -> bool:
        """Whether it is one of `BUILT_IN`."""
        return self.name in BUILT_IN


class Definition(Section):
    """An arm's optimizer: one for all parameters, or one for matrices and one for the rest.

    It is written as `{class: ..., settings: ...}`, or as `{matrices: {class: ...}, rest: {class:
    ...}}`.
    """

    whole: Part | None = None
    """The optimizer of all parameters."""

    matrices: Part | None = None
    """The optimizer of the weights with at least two inputs and two outputs."""

    rest: Part | None = None
    """The optimizer of all other parameters: biases, the gains of LayerNorm, other weights."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        check_keys(data, ARM_KEYS)
        one = {key: data[key] for key in ("class", "settings") if key in data}
        two = {key: data[key] for key in ("matrices", "rest") if key in data}
        if "class" in one and not two:
            return {"whole": one}
        if len(two) == 2 and not one:
            for name, part in two.items():
                if part is None:  # which a part that is not given is, too
                    raise ValueError(f"{name}: expected a mapping with `class`, received None")
            return two
        raise ValueError(
            f"expected `class`, with or without `settings`, or both `matrices` and `rest`, "
            f"received {', '.join(data) or 'nothing'}"
        )

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        parts = {name: part.model_dump() for name, part in self.parts.items()}
        return parts.get("whole", parts)

    @property
    def parts(self) -> dict[str, Part]:
        """The optimizers by what they step: `whole`, or `matrices` and `rest`."""
        found = {"whole": self.whole, "matrices": self.matrices, "rest": self.rest}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def alias(self) -> str | None:
        """The built-in that the arm is another name for, if it is."""
        return self.whole.name if self.whole and self.whole.built_in else None


def definition(where: str, arm: str, overrides: Mapping[str, Any]) -> Definition | None:
    """Reads what an arm's optimizer is; None for a built-in.

    Args:
        where: the place in the config, for messages.
        arm: the arm's name.
        overrides: what the config says about the arm.

    Raises:
        ConfigError: the arm is neither a built-in nor defined, or it is both, or its definition is
            not one.
    """
    given = {key: value for key, value in overrides.items() if key in ARM_KEYS}
    if arm in BUILT_IN and given:
        raise ConfigError(
            f"{where}: {arm!r} is a built-in and cannot be another optimizer, received {given}; "
            f"give the arm a name other than {choices()}"
        )
    if arm in BUILT_IN:
        return None
    if not re.fullmatch(ARM, arm):
        raise ConfigError(f"{where}: expected a name of letters, digits, '.', '_', '+' and '-'")
    if not given:
        raise ConfigError(
            f"{where}: without `class`, or `matrices` and `rest`, expected {choices()}, received "
            f"{arm!r}"
        )
    try:
        return Definition.model_validate(given)
    except ValidationError as error:
        lines = explain(error).replace("whole.", "").replace("whole: ", "").splitlines()
        keyed = [f".{line}" if line.startswith(ARM_KEYS) else f": {line}" for line in lines]
        raise ConfigError("\n".join(where + line for line in keyed)) from None


def refuse_unknown(name: str, found: Definition | None) -> None:
    """Checks that a run's optimizer is either a built-in or defined.

    Raises:
        ValueError: it is neither, or both.
    """
    if found is None and name not in BUILT_IN:
        raise ValueError(f"optimizer: expected {choices()}, received {name!r}")
    if found is not None and name in BUILT_IN:
        raise ValueError(
            f"optimizer: {name!r} is a built-in; a definition needs another name, received {found}"
        )
