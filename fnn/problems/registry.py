"""Problems by name, and problems of a file of yours."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

from fnn import names
from fnn.problems import (
    autoencoders,
    classification,
    deepobs,
    equations,
    images,
    lectures,
    matlab,
    minpack,
    regression,
    surfaces,
    text,
)
from fnn.problems.problem import Problem

PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    **lectures.PROBLEMS,
    **classification.PROBLEMS,
    **regression.PROBLEMS,
    **autoencoders.PROBLEMS,
    **surfaces.PROBLEMS,
    **minpack.PROBLEMS,
    "deepobs-quadratic": deepobs.quadratic,
    **matlab.PROBLEMS,
    **equations.PROBLEMS,
    **images.PROBLEMS,
    **text.PROBLEMS,
}
"""The maker of each problem. It takes nothing, or one path where `DATA` says what of; the first
line of its documentation is what a list of problems shows."""

DATA: Mapping[str, str] = {
    "matlab-cancer": "Proben1's cancer1.dt or another permutation",
    "matlab-diabetes": "Proben1's diabetes1.dt or another permutation",
    "mnist": "a folder with MNIST's four IDX files",
    "mnist-15": "a folder with MNIST's four IDX files",
    "mnist-conv": "a folder with MNIST's four IDX files",
    "cifar10-conv": "a folder with the six files of CIFAR-10's binary version",
    "fashion-mnist": "a folder with Fashion-MNIST's four IDX files",
    "char-rnn": "a text in UTF-8",
}
"""What the problems read that need a file or folder of yours."""

SUITES: Mapping[str, tuple[str, ...]] = {
    "small": (
        "digits-conv",
        "digits-resnet",
        "char-lstm",
        "char-transformer",
        "variational-autoencoder",
        "helmholtz",
        "sparse-logistic",
        "robot-arm",
    ),
}
"""Problems that are raced one after another, by the name of their suite; they read no data."""


def get(name: str, folder_or_file: str | Path | None = None) -> Problem:
    """The problem of that name, its data loaded.

    Args:
        name: one of `PROBLEMS`, or the path of a Python file that defines one, ending in .py (see
            `load`). An unknown one raises ValueError with the nearest match.
        folder_or_file: what it reads, by `DATA`. One that is missing, or not asked for, raises
            ValueError.

    Returns:
        The problem.

    Example:
        >>> get("iris").name
        'iris'
        >>> get("mnist")
        Traceback (most recent call last):
        ValueError: mnist: expected a folder with MNIST's four IDX files, got none; try ...
    """
    if name.endswith(".py"):
        return load(name, folder_or_file)
    maker = names.look_up("problem", name, PROBLEMS)
    return maker(*_arguments(name, maker, folder_or_file))


def _arguments(
    name: str, maker: Callable[..., Problem], path: str | Path | None
) -> tuple[str | Path, ...]:
    """The path if the maker takes one; an error if it is missing, or not asked for."""
    required = [
        parameter.name
        for parameter in inspect.signature(maker).parameters.values()
        if parameter.default is parameter.empty
    ]
    if path is None and required:
        reads = DATA.get(name, f"a path, {required[0]}")
        raise ValueError(f"{name}: expected {reads}, got none; try --data {required[0].upper()}")
    if path is not None and not required:
        raise ValueError(f"{name}: expected no data, got {path}; try without --data")
    return () if path is None else (path,)


def load(path: str | Path, folder_or_file: str | Path | None = None) -> Problem:
    """The problem that a Python file defines.

    The file defines `problem`, a `Problem` or a function that returns one; a function with a
    parameter is given `folder_or_file`.

    Args:
        path: the file.
        folder_or_file: what it reads, if it reads anything.

    Returns:
        The problem.

    Raises:
        ValueError: if there is no such file, if it raises (the error names the line), or if it does
            not define a problem.

    Example:
        >>> text = '''
        ... import jax, fnn
        ... from fnn.problems import Budget, Measure, Problem
        ...
        ... valleys = fnn.penalty(lambda x: (x**4).sum() - x[0] * x[1])
        ... problem = Problem(
        ...     "valleys", "two that meet", "made up", lambda key: jax.random.normal(key, (2,)),
        ...     objective=None, train=valleys, validation=valleys, test=None,
        ...     measure=Measure("depth", lambda x, _: valleys(x)), batch_size=None,
        ...     budget=Budget(100, "steps"), target=-0.12,
        ... )'''
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "my_problem.py").write_text(text)
        ...     load(Path(folder, "my_problem.py")).name
        'valleys'
    """
    path = Path(path)
    found = names.defined_in(path, "a problem").get("problem")
    if inspect.isfunction(found):
        maker, arguments = found, _arguments(path.name, found, folder_or_file)
        found = names.naming_the_line(path, lambda: maker(*arguments))
    elif folder_or_file is not None:
        raise ValueError(f"{path}: expected no data, got {folder_or_file}; try without --data")
    if not isinstance(found, Problem):
        got = "none" if found is None else f"a {type(found).__name__}"
        raise ValueError(
            f"{path}: expected `problem` to be a Problem or a function that returns one, got {got}"
            "; try problem = fnn.problems.Problem(...)"
        )
    return found
