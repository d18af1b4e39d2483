"""What fnn needs of other packages, and the sentences where it is missing or too old."""

import importlib
import importlib.util
import re
from importlib import metadata
from typing import Any

JAX = "0.10"
"""The oldest JAX; `pyproject.toml` says the same."""

OLDEST = {"jax": ("jax", JAX), "sklearn": ("scikit-learn", "1.6")}
"""Modules whose release matters, their package and its oldest release that will do. scikit-learn
1.6 is the first with a public `validate_data`."""

EXTRAS = {
    "matplotlib": ("matplotlib", "race"),
    "nicegui": ("nicegui", "play"),
    "orbax.checkpoint": ("orbax-checkpoint", "checkpoint"),
    "pandas": ("pandas", "pandas"),
    "ray": ("ray", "cluster"),
    "rich": ("rich", "race"),
    "safetensors": ("safetensors", "checkpoint"),
    "scipy": ("scipy", "race"),
    "sklearn": ("scikit-learn", "sklearn"),
    "typer": ("typer", "race"),
}
"""Modules that are not needed everywhere: their package, and the extra that brings it."""

FRAMEWORKS = {"equinox": "equinox", "flax": "flax", "haiku": "dm-haiku"}
"""Modules of those who bring networks of their own: their package, which no extra brings."""


def require(door: str, *modules: str) -> tuple[str, ...]:
    """Refuses what is missing, and what is too old; nothing is imported."""
    for module in modules:
        if not _is_there(module):
            raise ImportError(f"{door}: {_sentence(module, 'none installed')}")
        if module in OLDEST and _release(version := _version(module)) < _release(OLDEST[module][1]):
            raise ImportError(f"{door}: {_sentence(module, version)}")
    return modules


def load(door: str, module: str) -> Any:
    """A module that comes with an extra, or an ImportError that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        known = (*EXTRAS, *FRAMEWORKS)
        home = next(name for name in known if f"{module}.".startswith(f"{name}."))
        got = str(error) if _is_there(home) else "none installed"
        raise ImportError(f"{door}: {_sentence(home, got)}") from error


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of what it lies in
        return False


def _version(module: str) -> str:
    """The version that a module's metadata say; without metadata it is taken for new enough."""
    package, oldest = OLDEST[module]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return oldest


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers, (0, 10) of 0.10.2.dev1."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _sentence(module: str, got: str) -> str:
    if module == "jax":
        return f"expected jax {JAX} or newer, got {got}; try pip install 'jax>={JAX}'"
    if module in FRAMEWORKS:
        package = FRAMEWORKS[module]
        return f"expected {package}, got {got}; try pip install {package}"
    package, extra = EXTRAS[module]
    if module in OLDEST and got[:1].isdigit():
        package = f"{package} {OLDEST[module][1]} or newer"
    return f"expected {package}, got {got}; try pip install 'fnn[{extra}]'"
