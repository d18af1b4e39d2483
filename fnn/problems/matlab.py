"""Four of the problems that MATLAB's table of training functions compares.

The table trains until the mean of the squared errors over examples and outputs is below a goal, and
so there is no validation but the training examples themselves. The objective here is the mean over
examples of half the *sum* over outputs, so that a goal is multiplied by outputs / 2.

Source: MathWorks, "Choose a multilayer neural network training function", Deep Learning Toolbox
documentation: networks and goals of SIN, PARITY and CANCER. The data of the last two: Prechelt,
"Proben1" (1994); Mangasarian and Wolberg, SIAM News 23 (1990).

Differs: MATLAB draws its starts otherwise.
Not verified, because the table does not say or no copy of it was seen: the points of SIN; tanh
units in all layers of the other three; -1 and 1 for bits, 0 and 1 for classes; the training part of
Proben1's files; network and goal of DIABETES.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fnn import data, layers, losses
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import ACCURACY, ERROR, RIGHT_SIGNS, Score, network, supervised

_SOURCE = "MathWorks, Choose a multilayer neural network training function"
_START = jax.nn.initializers.normal(0.5)


def sin() -> Problem:
    """SIN: one period of a sine by a 1-5-1 network, to a mean squared error of 0.002."""
    x = np.linspace(-1, 1, 41)[:, None]
    points = data.Data(x, np.sin(np.pi * x))
    model = network([5, 1], start=_START)
    return _table(
        "matlab-sin", "one period of a sine, 1-5-1", model, [points] * 3, 0.002, ERROR, 8000
    )


def parity() -> Problem:
    """PARITY: the parity of three bits by a 3-10-10-1 network, to a mean squared error of 0.001."""
    bits = np.array([*itertools.product([-1.0, 1.0], repeat=3)])
    cases = [data.Data(bits, bits.prod(axis=1, keepdims=True))] * 3
    model = network([10, 10, 1], last=jnp.tanh)
    return _table(
        "matlab-parity", "parity of three bits, 3-10-10-1", model, cases, 0.001, RIGHT_SIGNS, 25_000
    )


def _proben1(
    name: str, what: str, sizes: tuple[int, ...], mean_squared_error: float, file: str | Path
) -> Problem:
    """Data of a file of Proben1's; the training examples validate, the test examples test."""
    train, _, test = data.proben1(file)
    columns = train.inputs.shape[1], train.targets.shape[1]
    if columns != (sizes[0], sizes[-1]):
        raise ValueError(
            f"{name}: expected {sizes[0]} inputs and {sizes[-1]} outputs, got {columns[0]} and "
            f"{columns[1]} in {file}; try Proben1's {name.removeprefix('matlab-')}1.dt"
        )
    model = network(sizes[1:], last=jnp.tanh)
    summary = f"Proben1's {what}, {'-'.join(map(str, sizes))}"
    parts = [train, train, test._replace(targets=test.targets.argmax(axis=1))]
    return _table(name, summary, model, parts, mean_squared_error, ACCURACY, 4000)


def _table(
    name: str,
    summary: str,
    model: layers.Layer,
    parts: Sequence[data.Data],
    mean_squared_error: float,
    score: Score,
    gradients: float,
) -> Problem:
    """A row of MATLAB's table, whose goal is a mean over outputs where the loss is half a sum."""
    return supervised(
        name,
        summary,
        _SOURCE,
        model=model,
        loss=losses.half_squared_error,
        parts=parts,
        score=score,
        batch_size=None,
        budget=Budget(gradients, "gradients"),
        target=mean_squared_error * parts[0].targets.shape[1] / 2,
    )


cancer = described(
    "CANCER: Proben1's breast tumors by a 9-5-5-2 network, to a mean squared error of 0.012.",
    *(_proben1, "matlab-cancer", "breast tumors", (9, 5, 5, 2), 0.012),
)
diabetes = described(
    "DIABETES: Proben1's by an 8-15-15-2 network, to a mean squared error of 0.05 (unverified).",
    *(_proben1, "matlab-diabetes", "diabetes or none", (8, 15, 15, 2), 0.05),
)
PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "matlab-sin": sin,
    "matlab-parity": parity,
    "matlab-cancer": cancer,
    "matlab-diabetes": diabetes,
}
"""The problems by their names."""
