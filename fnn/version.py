"""The version of this package."""

import tomllib
from importlib import metadata
from pathlib import Path

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def _version() -> str:
    """As installed; in a checkout that is not installed, as its project file says."""
    try:
        return metadata.version("fnn")
    except metadata.PackageNotFoundError:
        return tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"]


__version__ = _version()
