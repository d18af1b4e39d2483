"""What a problem is: something to train, how it is measured, and what may be spent on it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree, Scalar

from fnn.objective import Objective

COSTS = "steps", "examples", "gradients", "flops", "seconds"
"""What training is paid in. `flops` is all arithmetic. `gradients` is the work of the model
(forward, backward and along directions) and a tenth of all other arithmetic, in units of one
gradient of the mean loss over the training data. `seconds` are those of a run alone, compiled and
warm.

All but seconds are counted while a run goes on, and repeat. Of these, gradients come nearest to
seconds, which is why budgets of problems are in them: steps give a factorization for the price of a
gradient, and a flop of a factorization takes a tenth of the time of one in a small model (see
`race.meter`). Gradients are near, and no more: the steps of first-order rules on small problems are
mostly overhead. So a race says the seconds as well, and one with `--budget '2 seconds'` is decided
by them."""


class Budget(NamedTuple):
    """How much a run may spend.

    Attributes:
        amount: how much; more than 0.
        unit: of what, one of `COSTS`; a race refuses a budget without one.
    """

    amount: float
    unit: str = ""


class Measure(NamedTuple):
    """What a trained model is judged by in the end, on what nothing was chosen by.

    Attributes:
        name: what it is called in tables.
        of: `of(params, test) -> scalar`.
        highest: whether more is better.
    """

    name: str
    of: Callable[[PyTree, PyTree], Scalar]
    highest: bool = False


class Problem(NamedTuple):
    """Something to train.

    Attributes:
        name: what it is called on the command line.
        summary: one line for people.
        source: where it comes from.
        init: a starting point, `init(key) -> params`.
        objective: the model with its loss; None where `train` is a value function.
        train: what rules see: examples, as `objective.on` takes them, or a value function.
        validation: what hyperparameters are chosen by and targets are of, like `train`.
        test: what nothing is chosen by; whatever `measure` takes.
        measure: what the test is judged by.
        batch_size: examples in a mini-batch of the rules that take such; None is all of them.
        budget: what a run may spend.
        target: the validation loss that counts as having arrived.
    """

    name: str
    summary: str
    source: str
    init: Callable[[Key[Array, ""]], PyTree]
    objective: Objective | None
    train: PyTree
    validation: PyTree
    test: PyTree
    measure: Measure
    batch_size: int | None
    budget: Budget
    target: float


def accuracy(outputs: Array, targets: Array) -> Scalar:
    """The share of examples whose largest output is their class.

    Args:
        outputs: scores, of shape (n, classes).
        targets: classes, of shape (n,).

    Returns:
        A number between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> float(accuracy(jnp.eye(2), jnp.array([0, 0])))
        0.5
    """
    return jnp.mean(jnp.argmax(outputs, axis=-1) == targets)


def described(
    description: str, make: Callable[..., Problem], *arguments: object, **named: object
) -> Callable[..., Problem]:
    """A row of a table: a maker of one problem, with the line that a list of problems shows."""
    maker = functools.partial(make, *arguments, **named)
    maker.__doc__ = description
    return maker
