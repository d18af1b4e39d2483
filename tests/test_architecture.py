"""The plan of the house: floors, public JAX only, documented names, a core without extras."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fnn

PACKAGE = Path(fnn.__file__).parent
FLOORS = {
    "names": -1,
    "requirements": -2,
    "version": -2,
    "interned": -1,
    "jaxprs": -3,
    "flops": -2,
    "devices": -1,
    "precision": 0,
    "layers": 0,
    "losses": 0,
    "activations": 0,
    "initializers": 0,
    "data": 0,
    "differential": 0,
    "exchange": 0,
    "objective": 1,
    "solvers": 1,
    "backprop": 2,
    "curvature": 2,
    "perturbations": 2,
    "compression": 2,
    "diagnostics": 2,
    "rules": 3,
    "training": 4,
    "problems": 4,
    "plots": 4,
    "race": 5,
    "commands": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 7,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Every imported module, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home(path):
    """The module of the house, `layers` for fnn/layers/linear.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_floor():
    assert {home(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = home(path)
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("fnn.")}
    for module in inner & set(FLOORS) - {here}:
        assert FLOORS[module] < FLOORS[here], f"{here} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_private_of_jax_is_used_and_nothing_is_silenced(path):
    private = "jax._src", "jax.core", "jax.interpreters", "jax.lib", "jaxlib._"
    assert not [name for name in imports(path) if name.startswith(private)]
    text = path.read_text()
    assert not [mark for mark in ("noqa", "type: ignore", "pyright: ignore") if mark in text]


def public_functions():
    """What users call: the functions of each module of floors 0 to 4, folders by their map."""
    for name, floor in FLOORS.items():
        if 0 <= floor <= 4:
            module = importlib.import_module(f"fnn.{name}")
            for function, thing in vars(module).items():
                if (
                    inspect.isfunction(thing)
                    and thing.__module__.startswith(module.__name__)
                    and not function.startswith("_")
                ):
                    yield pytest.param(thing, id=f"{name}.{function}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_what_users_call_says_what_it_takes_and_returns_and_shows_it(function):
    doc = inspect.getdoc(function) or ""
    assert "Returns:" in doc
    assert not inspect.signature(function).parameters or "Args:" in doc
    if not function.__module__.startswith(("fnn.training.loop", "fnn.training.sources")):
        assert ">>> " in doc


def test_the_core_needs_no_extra():
    code = (
        "import sys\n"
        "for extra in ('matplotlib', 'plotly', 'rich', 'typer', 'sklearn', 'scipy',\n"
        "              'orbax', 'safetensors'):\n"
        "    sys.modules[extra] = None\n"
        "import fnn, fnn.layers, fnn.losses, fnn.rules, fnn.data, fnn.training, fnn.problems\n"
        "import fnn.exchange\n"
        "import fnn.__main__\n"
        "fnn.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'fnn[race]'" in done.stderr
    assert "Traceback" not in done.stderr
