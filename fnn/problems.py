"""Problems: what can be raced. Data, a network, a loss, a metric and a budget under one name."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from fnn import data, layers, losses, names
from fnn.objective import Objective


class Problem(NamedTuple):
    """Something to train, and how it is measured.

    Attributes:
        name: what it is called on the command line.
        summary: one line for people.
        train: the examples that rules see.
        validation: the examples that hyperparameters are chosen by.
        test: the examples that nothing is chosen by.
        model: the network.
        objective: the model with its loss.
        metric: what the test examples are measured by, its name and a function of all outputs and
            targets.
        batch_size: examples in a mini-batch.
        epochs: passes through the training data.
    """

    name: str
    summary: str
    train: PyTree
    validation: PyTree
    test: PyTree
    model: layers.Layer
    objective: Objective
    metric: tuple[str, Callable[[Array, Array], Scalar]]
    batch_size: int
    epochs: int


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


def _classification(
    name: str,
    summary: str,
    examples: Callable[[], data.Data],
    *,
    hidden: int,
    batch_size: int,
    epochs: int,
) -> Problem:
    """One hidden layer of rectified units and softmax; 60 / 20 / 20 % of the examples."""
    everything = examples()
    train, validation, test = data.split(everything, (0.6, 0.2, 0.2), jax.random.key(0))
    model = layers.serial(
        layers.dense(hidden),
        layers.elementwise(jax.nn.relu),
        layers.dense(int(everything.targets.max()) + 1),
    )
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    metric = "accuracy", accuracy
    return Problem(
        name, summary, train, validation, test, model, objective, metric, batch_size, epochs
    )


def digits() -> Problem:
    """1797 real handwritten digits of 8 x 8 pixels, a 64-32-10 network.

    Returns:
        The problem.

    Source:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits" (1998), the test set,
        as scikit-learn carries it.

    Example:
        >>> digits().train.inputs.shape
        (1078, 64)
    """
    return _classification(
        "digits",
        "1797 handwritten digits of 8 x 8 pixels, 64-32-10",
        data.digits,
        hidden=32,
        batch_size=32,
        epochs=40,
    )


def iris() -> Problem:
    """150 flowers of three species, a 4-16-3 network.

    Returns:
        The problem.

    Source:
        Fisher, "The use of multiple measurements in taxonomic problems" (1936).

    Example:
        >>> iris().train.inputs.shape
        (90, 4)
    """
    return _classification(
        "iris", "150 flowers of three species, 4-16-3", data.iris, hidden=16, batch_size=15,
        epochs=100,
    )  # fmt: skip


def moons() -> Problem:
    """500 points on two interleaved half circles with noise, a 2-16-2 network.

    Returns:
        The problem.

    Example:
        >>> moons().train.inputs.shape
        (300, 2)
    """
    return _classification(
        "moons", "500 points on two half circles, 2-16-2", data.moons, hidden=16, batch_size=25,
        epochs=100,
    )  # fmt: skip


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    problem.__name__: problem for problem in (digits, iris, moons)
}


def get(name: str) -> Problem:
    """The problem of that name, its data loaded.

    Args:
        name: one of `PROBLEMS`; an unknown one raises ValueError with the nearest match.

    Returns:
        The problem.

    Example:
        >>> get("iris").name
        'iris'
    """
    return names.look_up("problem", name, PROBLEMS)()
