"""What lectures show: functions that no straight line computes, and fits by three units.

Of two units XOR has a solution too, but then most starts end in a local minimum, where two of the
cases are confounded; of three units a few starts still do. In a parity every input matters in every
case, so that no unit alone is of any use. All cases train, validate and test. The points of a fit
train and validate, a finer grid tests; the weights of the step grow without bound as it is
approached.

Source:
    XOR, parity  Minsky and Papert, "Perceptrons" (1969); Rumelhart, Hinton and Williams, "Learning
                 internal representations by error propagation" (1986)
    fits         Bishop, "Pattern recognition and machine learning" (2006), figure 5.3
"""

import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fnn import losses
from fnn.data import Data
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import ERROR, RIGHT_SIGNS, network, supervised

NORMAL = jax.nn.initializers.normal(1.0)


def xor() -> Problem:
    """Either, but not both: the four cases of two bits, a 2-3-1 network of tanh units."""
    inputs = np.array([*itertools.product([0.0, 1.0], repeat=2)])
    return _logic("xor", "either, but not both, of two bits, 2-3-1", inputs, 3)


def parity(n: int) -> Problem:
    """Whether an odd number of n signs, 1 to 16, is +1: all cases, an n-2n-1 network."""
    if not 1 <= n <= 16:
        raise ValueError(f"parity: expected 1 to 16 signs, got {n}; try 3")
    inputs = np.array([*itertools.product([-1.0, 1.0], repeat=n)])
    summary = f"whether an odd number of {n} signs is +1, {n}-{2 * n}-1"
    return _logic(f"parity-{n}", summary, inputs, 2 * n)


def _logic(name: str, summary: str, inputs: np.ndarray, hidden: int) -> Problem:
    odd = np.sum(inputs > 0, axis=1, keepdims=True) % 2
    return supervised(
        name,
        summary,
        "Rumelhart, Hinton and Williams (1986)",
        model=network([hidden, 1], start=NORMAL),
        loss=losses.logistic,
        parts=[Data(inputs, odd.astype(float))] * 3,
        score=RIGHT_SIGNS,
        batch_size=None,
        budget=Budget(20_000, "gradients"),
        target=0.02,
    )


def _fit(
    name: str, formula: str, function: Callable[[np.ndarray], np.ndarray], target: float
) -> Problem:
    def points(n: int) -> Data:
        x = (2 * np.arange(n)[:, None] + 1) / n - 1
        return Data(x, function(x))

    return supervised(
        name,
        f"{formula} from 50 points in (-1, 1), 1-3-1",
        "Bishop (2006), figure 5.3",
        model=network([3, 1], jnp.tanh, start=NORMAL),
        loss=losses.half_squared_error,
        parts=[points(50), points(50), points(999)],
        score=ERROR,
        batch_size=None,
        budget=Budget(30_000, "gradients"),
        target=target,
    )


_BY_THREE_UNITS = "by a 1-3-1 network of tanh units, from 50 points."

PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "xor": xor,
    **{
        f"parity-{n}": described(f"Whether an odd number of {n} signs is +1.", parity, n)
        for n in (2, 3, 4, 5)
    },
    "fit-square": described(f"x^2 {_BY_THREE_UNITS}", _fit, "fit-square", "x^2", np.square, 1e-4),
    "fit-sine": described(
        f"sin(pi x) {_BY_THREE_UNITS}", _fit, "fit-sine", "sin(pi x)",
        lambda x: np.sin(np.pi * x), 1e-4,
    ),
    "fit-abs": described(f"|x| {_BY_THREE_UNITS}", _fit, "fit-abs", "|x|", np.abs, 4e-4),
    "fit-step": described(
        f"The Heaviside step {_BY_THREE_UNITS}", _fit, "fit-step", "the step at 0",
        lambda x: np.heaviside(x, 0.5), 1e-3,
    ),
}  # fmt: skip
"""The problems by their names."""
