"""The package as others find it: its public names, its needs, its types, its command line."""

import ast
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import fnn
from fnn import cli, problems, race, requirements, version
from fnn.race import trajectories

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fnn.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PRIVATE = {
    "arrays",
    "mappings",
    "box",
    "foreign",
    "dtypes",
    "interned",
    "names",
    "programs",
    "capture",
    "batches",
    "branches",
    "products",
    "reductions",
    "locks",
    "requirements",
    "prediction",
    "progress",
    "version",
    "play",
    "commands",
    "cli",
    "__main__",
    "__init__",
}
MODULES = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"} | {
    path.parent.name for path in PACKAGE.glob("*/__init__.py")
}
INNER = "rules.damping", "rules.scaling", "curvature.spectrum"
PUBLIC = sorted(MODULES - PRIVATE) + list(INNER)
CORE = "jax", "optax", "numpy"
EXTRAS = (
    "scipy", "sklearn", "matplotlib", "pandas", "rich", "typer", "ray", "orbax", "safetensors",
    "nicegui",
)  # fmt: skip


def run(code, *arguments, **environment):
    """A fresh interpreter, to its end."""
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def imported(code, modules):
    """Which of some modules a fresh interpreter has imported after running code."""
    done = run(f"import sys\n{code}\nprint([name for name in {modules} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


# The map ------------------------------------------------------------------------------------------


def test_the_map_is_what_the_package_shows():
    objects = {"Objective", "__version__", "fit", "fits", "l1", "l2", "penalty", "predict"}
    assert set(dir(fnn)) == set(fnn.__all__) == objects | (MODULES - PRIVATE)
    assert all(getattr(fnn, name) is not None for name in dir(fnn))
    drawn, _, _ = (fnn.__doc__ or "").partition("`import fnn`")
    for name in MODULES - PRIVATE:
        assert re.search(rf"^    (.* )?{name} ", drawn, re.MULTILINE), name


def test_type_checkers_are_told_the_same_map():
    told = {
        alias.asname
        for branch in ast.parse(Path(fnn.__file__).read_text()).body
        if isinstance(branch, ast.If)
        for statement in branch.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert told == set(fnn.__all__)
    assert (PACKAGE / "py.typed").exists()


def test_what_is_public_is_imported_when_it_is_asked_for():
    assert imported("import fnn", [*CORE, *EXTRAS, "fnn.training"]) == []
    most = "import fnn\nfnn.fit, fnn.rules.adam, fnn.layers, fnn.problems, fnn.exchange.save"
    extras = ["fnn.race", "fnn.plots", *(name for name in EXTRAS if name not in {"scipy"})]
    assert imported(most, [*extras, "scipy.stats"]) == []  # of SciPy, JAX takes a part


@pytest.mark.parametrize(
    ("name", "hint"), [("layer", "did you mean 'layers'?"), ("xyzzy", "try dir(fnn)")]
)
def test_a_name_that_is_not_there_brings_the_nearest(name, hint):
    with pytest.raises(AttributeError, match=re.escape(f"got '{name}'; {hint}")):
        getattr(fnn, name)
    assert not hasattr(fnn, "__wrapped__")


def test_the_version_is_that_of_the_project(monkeypatch):
    assert fnn.__version__ == PROJECT["version"]

    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)  # a checkout that is not installed
    importlib.reload(version)
    assert version.__version__ == PROJECT["version"]


@functools.cache
def nodes():
    """Everything that the house says, from one reading of it."""
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    return [node for tree in trees for node in ast.walk(tree)]


def asked_for(face):
    """What the house itself imports from the face of a folder; not all of it is for users."""
    imports = [node for node in nodes() if isinstance(node, ast.ImportFrom)]
    by_name = {alias.name for node in imports if node.module == face for alias in node.names}
    name = face.rpartition(".")[2]
    return by_name | {
        node.attr
        for node in nodes()
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == name
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_shows_its_own_names_and_no_others(name):
    module = importlib.import_module(f"fnn.{name}")
    assert dir(module) == sorted(module.__all__)
    body = ast.parse(Path(module.__file__).read_text()).body
    foreign = {
        alias.asname or alias.name.partition(".")[0]
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not (getattr(node, "module", None) or "").startswith("fnn")
        for alias in node.names
    }
    assert not foreign & set(dir(module))
    own = {
        shown
        for shown, thing in vars(module).items()
        if not shown.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
    }
    reexported = {
        alias.asname
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fnn")
        for alias in node.names
        if alias.asname == alias.name
    }
    assert own | reexported - asked_for(f"fnn.{name}") <= set(dir(module))


# What it needs ------------------------------------------------------------------------------------


def test_bounds_and_extras_are_those_of_the_project():
    assert f"jax>={requirements.JAX}" in PROJECT["dependencies"]
    packages = {
        (re.split(r"[<>=]", package)[0], extra)
        for extra, needed in PROJECT["optional-dependencies"].items()
        for package in needed
        if not package.startswith("fnn[")  # an extra within another
    }
    named = set(requirements.EXTRAS.values())
    assert named <= packages  # the race asks for packages of other extras, too
    assert {package for package, _ in named} == {package for package, _ in packages}
    oldest = PROJECT["requires-python"].removeprefix(">=")
    tried = [line for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tried[0].endswith(f":: {oldest}")


def test_a_scikit_learn_that_is_too_old_is_refused_in_one_sentence(monkeypatch):
    package, oldest = requirements.OLDEST["sklearn"]
    assert f"{package}>={oldest}" in PROJECT["optional-dependencies"]["sklearn"]
    monkeypatch.setattr(requirements.metadata, "version", lambda _: "1.5.2")
    need = "estimators: expected scikit-learn 1.6 or newer, got 1.5.2; try pip install"
    with pytest.raises(ImportError, match=need):
        requirements.require("estimators", "sklearn")


def test_a_jax_that_is_too_old_is_refused_in_one_sentence(tmp_path):
    old = tmp_path / "jax-0.4.30.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.4.30\n")
    done = run("import fnn.losses", PYTHONPATH=str(tmp_path))
    need = f"fnn: expected jax {requirements.JAX} or newer, got"
    assert f"ImportError: {need} 0.4.30; try pip install 'jax>={requirements.JAX}'" in done.stderr
    done = run("import sys; sys.modules['jax'] = None; import fnn")
    assert f"ImportError: {need} none installed; try" in done.stderr


def test_every_door_names_the_extra_that_it_misses():
    doors = {
        "fnn.plots": "plots: expected matplotlib, got none installed; try pip install 'fnn[race]'",
        "fnn.race": "race: expected matplotlib, got none installed; try pip install 'fnn[race]'",
        "fnn.data.iris()": "data: expected scikit-learn, got none installed; "
        "try pip install 'fnn[sklearn]'",
        "fnn.estimators": "estimators: expected scikit-learn, got none installed; "
        "try pip install 'fnn[sklearn]'",
        "fnn.exchange.save('a', [jax.numpy.ones(1)])": "exchange: expected safetensors, "
        "got none installed; try pip install 'fnn[checkpoint]'",
    }
    code = "import sys, jax.numpy, optax, fnn\n"  # which take a part of SciPy
    code += f"for name in {EXTRAS}: sys.modules[name] = None\n"
    for door in doors:
        code += f"try: {door}\nexcept ImportError as error: print(error)\n"
    done = run(code)
    assert done.stdout.splitlines() == list(doors.values()), done.stderr


# Its command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["race"], ["trajectories"], ["plot"], ["play"]])
def test_help_imports_no_more_than_it_shows(command):
    code = f"sys.argv = {['fnn', *command, '--help']}\nfrom fnn.__main__ import main\n"
    code += "try: main()\nexcept SystemExit as end: assert end.code == 0"
    heavy = [*CORE, *(name for name in EXTRAS if name != "typer"), "fnn.race", "fnn.commands"]
    assert imported(code, heavy) == []


def test_defaults_that_help_shows_are_those_of_the_race():
    assert cli.RACING.split(",") == list(race.CLASSIC)
    assert cli.WALKING.split(",") == list(trajectories.SHOWN)
    assert cli.SURFACES.split(", ") == list(problems.SURFACES)
    assert cli.SUITES.split(", ") == list(problems.SUITES)


def test_the_command_line_needs_no_backend_of_matplotlib(tmp_path):
    command = ["trajectories", "bowl", "--rules", "sgd", "--steps", "3", "--out", str(tmp_path)]
    code = f"import sys; sys.argv = {['fnn', *command]}; from fnn.__main__ import main; main()"
    done = run(code, MPLBACKEND="module://matplotlib_inline.backend_inline")  # as notebooks do
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bowl.png").exists()
    code = "import sys; sys.argv = ['fnn', '--help']; from fnn.__main__ import main\n"
    code += "try: main()\nexcept SystemExit: import matplotlib"
    assert run(code, MPLBACKEND="nonsense").returncode == 0


def test_the_backend_of_a_session_stays():
    code = "import os, fnn.__main__, fnn.cli; print(os.environ['MPLBACKEND'])"
    assert run(code, MPLBACKEND="svg").stdout.strip() == "svg"
