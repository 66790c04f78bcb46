"""What an environment was when it was used: the packages and the source that it is made of.

The fingerprint is no part of a run's identity. It is recorded with checkpoints, trainings and
evaluations, so that results of an environment are not mixed with those of another version of it.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import logging
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from mpo.environments.envs import make_env
from mpo.provenance import packages as packages_of
from mpo.study.config import JobFailed
from mpo.study.specs import EnvironmentSpec

logger = logging.getLogger(__name__)

_SIMULATORS = {
    "gymnasium.envs.mujoco": ("mujoco",),
    "gymnasium.envs.box2d": ("box2d", "box2d-py"),
    "shimmy.dm_control_compatibility": ("dm_control", "mujoco"),
}
"""Packages that compute the physics of the environments whose classes are in a module."""

_SITE = {"site-packages", "dist-packages"}
"""Folders of installed packages."""


class Changed(JobFailed):
    """What earlier work was done with is not what it was."""

    noun: str
    """What has changed."""


class EnvironmentChanged(Changed):
    """An environment is not the one that earlier work was done in."""

    noun = "environment"


class OptimizerChanged(Changed):
    """An imported optimizer is not the one that earlier work was done with."""

    noun = "optimizer"


def fingerprint(env: gym.Env) -> dict[str, Any]:
    """Returns what the environment is made of, as JSON values.

    Args:
        env: an environment from `make_env`.

    Returns:
        packages: versions of the installed packages that its classes and its wrappers come from.
        sources: SHA-256 of the source of modules that belong to no package, by module name, and of
            the modules that these import.
        files: SHA-256 of the files that arguments name, such as a MuJoCo model, by argument.
        kwargs: arguments of its constructor.
        max_episode_steps: its time limit, if Gymnasium knows it.
    """
    spec = env.unwrapped.spec
    kwargs = spec.kwargs if spec else {}
    # Registering may set arguments and a time limit, in a module of its own.
    entry = spec.entry_point if spec else None
    names = {
        entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    }
    classes = [cls for layer in _layers(env) for cls in type(layer).__mro__]
    found = _code(names | {cls.__module__ for cls in classes}, classes)
    return {
        **found,
        "files": {
            key: _digest(Path(value))
            for key, value in sorted(kwargs.items())
            if isinstance(value, str) and Path(value).is_file()
        },
        "kwargs": json.loads(json.dumps(kwargs, default=_plain, sort_keys=True)),
        "max_episode_steps": env.spec.max_episode_steps if env.spec else None,
    }


def of_classes(classes: Iterable[type]) -> dict[str, Any]:
    """Returns what classes are made of: `packages` and `sources`, as `fingerprint` does.

    torch is left out. Its version is recorded with the machine, and its builds for a CPU and for a
    GPU have different ones.
    """
    all_classes = [cls for own in classes for cls in own.__mro__]
    names = {cls.__module__ for cls in all_classes}
    return _code({name for name in names if name.partition(".")[0] != "torch"}, all_classes)


def present(env: str | EnvironmentSpec) -> dict[str, Any]:
    """Makes an environment and returns its fingerprint; see `make_env`."""
    made = make_env(env)
    found = fingerprint(made)
    made.close()
    return found


def refuse_change(
    recorded: Any,
    present: dict[str, Any],
    what: str,
    remedy: str,
    kind: type[Changed] = EnvironmentChanged,
) -> None:
    """Compares the fingerprint of earlier work with the present one.

    Args:
        recorded: the fingerprint in a record; None in a record of an older version of the program.
        present: the fingerprint as it is now.
        what: the earlier work, for messages.
        remedy: what to delete, for messages.
        kind: the error to raise, which tells what the fingerprint is of.

    Raises:
        EnvironmentChanged: they differ; or the `kind` that is given.
    """
    if not isinstance(recorded, dict):
        logger.info("%s does not record its %s, so changes of it go unnoticed", what, kind.noun)
    elif recorded != present:
        found = "; ".join(differences(recorded, present))
        raise kind(f"{what} used another version of the {kind.noun}: {found}. {remedy}")


def differences(recorded: dict[str, Any], present: dict[str, Any]) -> Iterator[str]:
    """Yields what differs between two fingerprints, in words."""
    for part in sorted(recorded.keys() | present.keys()):
        before, now = recorded.get(part), present.get(part)
        if before == now:
            continue
        if not (isinstance(before, dict) and isinstance(now, dict)):
            yield f"{part} was {before}, is {now}"
            continue
        for key in sorted(before.keys() | now.keys()):
            was, has = before.get(key), now.get(key)
            if was == has:
                continue
            if part in ("sources", "files") and None not in (was, has):
                yield f"{part.removesuffix('s')} {key} has changed"
            else:
                yield f"{part.removesuffix('s')} {key} was {was}, is {has}"


def _code(names: Iterable[str], classes: Iterable[type]) -> dict[str, dict[str, str]]:
    """The packages that modules come from, and the sources of those that belong to none.

    Args:
        names: the modules.
        classes: the classes that count in a script.
    """
    packages: dict[str, str] = {}
    for name in sorted(names):
        for prefix, simulators in _SIMULATORS.items():
            if name.startswith(prefix):
                packages |= packages_of(simulators)
        packages |= _package(name)
    sources = {
        module.__name__: _digest(Path(str(module.__file__))) for module in _own_modules(names)
    }
    if "__main__" in names:
        # A script changes with whatever it trains; of it only the classes count.
        sources["__main__"] = _digest_of_classes(classes)
    return {"packages": dict(sorted(packages.items())), "sources": dict(sorted(sources.items()))}


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    """The wrappers from the outermost to the innermost, then the environment."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _package(name: str) -> dict[str, str]:
    """The version of the installed package that a module belongs to."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not _SITE & {*Path(file).parts}:
        return {}
    top = name.partition(".")[0]
    return packages_of([top]) or packages_of(packages_distributions().get(top, []))


def _own_modules(names: Iterable[str]) -> list[ModuleType]:
    """The modules that belong to no package, among these and all that they import."""
    found: dict[str, ModuleType] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if module is None or name in found or name == "__main__" or not _is_own(module):
            continue
        found[name] = module
        waiting += _imported(module)
        # Importing a module runs the packages above it.
        waiting.append(name.rpartition(".")[0])
    return list(found.values())


def _is_own(module: ModuleType) -> bool:
    """Whether a module is part of neither Python, this program nor an installed package."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "mpo":
        return False
    path = Path(file)
    if path.suffix != ".py" or _SITE & {*path.parts}:
        return False
    return not any(path.is_relative_to(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib"))


def _imported(module: ModuleType) -> Iterator[str]:
    """The names that a module's source imports: modules, or what may be one in a package."""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, module.__package__)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_of_classes(classes: Iterable[type]) -> str:
    digest = hashlib.sha256()
    for cls in classes:
        if cls.__module__ == "__main__":
            try:
                digest.update(inspect.getsource(cls).encode())
            except (OSError, TypeError):
                digest.update(cls.__qualname__.encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A JSON value that says the same in every process."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return getattr(value, "__qualname__", type(value).__qualname__)
