"""The plan of the house: floors, public JAX only, documented names, a core without extras."""

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fnn

PACKAGE = Path(fnn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def floors():
    """The rooms on each floor from the ground up, as the page `fnn/__init__.py` draws them."""
    drawing = re.findall(r"^    (\w.*)$", fnn.__doc__ or "", re.MULTILINE)
    return [re.split(r"  +", line)[0].split() for line in reversed(drawing)]


FLOORS = {room: number for number, floor in enumerate(floors()) for room in floor}


def name_of(path):
    """The dotted name of a file, `fnn.layers` for fnn/layers/__init__.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path):
    """Every imported module, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path):
    """The modules of the house that a file imports, for types alone too, but not its own folder."""
    mine = name_of(path)
    for name in imports(path):
        if name in MODULES and name not in (mine, "fnn") and not mine.startswith(f"{name}."):
            yield name


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def test_every_room_is_drawn_once():
    rooms = {name.split(".")[1] for name in MODULES if name != "fnn"}
    drawn = [room for floor in floors() for room in floor]
    assert sorted(drawn) == sorted(rooms)


@every_file
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        return  # it shows all of them, to type checkers
    here = name_of(path).split(".")[1]
    for room in {name.split(".")[1] for name in imported(path)} - {here}:
        assert FLOORS[room] < FLOORS[here], f"{here} imports {room}"


def test_no_import_comes_back_in_a_circle():
    graph = {name: set(imported(path)) for name, path in MODULES.items() if name != "fnn"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises and names the circle


@every_file
def test_a_folder_is_entered_by_its_face(path):
    """Its `__init__` says what of a folder is for others, modules too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            entered = MODULES[node.module]
            inside = {entered.parent} if entered.name != "__init__.py" else set()
            assert inside <= {PACKAGE, *path.parents}, f"past the face of {node.module}"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                shown = entered.parent in path.parents or alias.asname == alias.name
                shown = shown or module in imports(entered)
                assert module not in MODULES or shown, f"{node.module} does not show {alias.name}"


@every_file
def test_nothing_private_of_jax_is_used_and_nothing_is_silenced(path):
    private = "jax._src", "jax.core", "jax.interpreters", "jax.lib", "jaxlib._"
    assert not [name for name in imports(path) if name.startswith(private)]
    text = path.read_text()
    assert not [mark for mark in ("noqa", "type: ignore", "pyright: ignore") if mark in text]


def public_functions():
    """What users call: the functions that a public module lists."""
    for name in fnn.__all__:
        module = getattr(fnn, name)
        if inspect.ismodule(module) and name != "race":
            for function in map(module.__dict__.get, module.__all__):
                if inspect.isfunction(function) and function.__module__ in MODULES:
                    yield pytest.param(function, id=f"{name}.{function.__name__}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_what_users_call_says_what_it_takes_and_returns_and_shows_it(function):
    doc = inspect.getdoc(function) or ""
    assert "Returns:" in doc or "Yields:" in doc
    assert not inspect.signature(function).parameters or "Args:" in doc
    if not function.__module__.startswith(("fnn.training.loop", "fnn.training.sources")):
        assert ">>> " in doc


def test_the_core_needs_no_extra():
    code = (
        "import sys\n"
        "for extra in ('matplotlib', 'pandas', 'rich', 'typer', 'sklearn', 'scipy',\n"
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


def test_what_a_benchmark_takes_from_another_is_there():
    scripts = (PACKAGE.parent / "benchmarks").glob("*.py")
    trees = {path.stem: ast.parse(path.read_text()) for path in scripts}
    assert "kronecker" in trees

    def names(tree):
        for node in tree.body:
            targets = getattr(node, "targets", [getattr(node, "target", node)])
            parts = [part for target in targets for part in ast.walk(target)]
            yield from (part.id for part in parts if isinstance(part, ast.Name))
            yield getattr(node, "name", None)

    def uses(path, tree):
        modules = set(imports(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                yield from ((node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in modules:
                yield node.value.id, node.attr

    for name, tree in trees.items():
        for module, word in uses(PACKAGE.parent / "benchmarks" / f"{name}.py", tree):
            if module in trees:
                assert word in set(names(trees[module])), f"{name}: {module} has no {word}"
