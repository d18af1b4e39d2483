"""Problems of inputs with targets: what most of them are put together from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from fnn import layers
from fnn.data import Data, standardization
from fnn.objective import Objective, ValueFunction
from fnn.problems.problem import Budget, Measure, Problem, accuracy


class Score(NamedTuple):
    """What outputs are judged by in the end.

    Attributes:
        name: what it is called in tables.
        of: `of(outputs, targets) -> scalar`, all examples stacked.
        highest: whether more is better.
    """

    name: str
    of: Callable[..., Scalar]
    highest: bool = False


def right_signs(outputs: Array, targets: Array) -> Scalar:
    """The share of answers yes (above 0) and no that agree with targets 1 and 0, or 1 and -1.

    Args:
        outputs: logits, or scores.
        targets: as many labels.

    Returns:
        A number between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> float(right_signs(jnp.array([2.0, -1.0]), jnp.array([1, 1])))
        0.5
    """
    return jnp.mean((outputs > 0) == (targets > 0))


def root_mean_square_error(outputs: Array, targets: Array) -> Scalar:
    """The root of the mean of the squared differences.

    Args:
        outputs: numbers.
        targets: as many.

    Returns:
        A number >= 0.

    Example:
        >>> import jax.numpy as jnp
        >>> float(root_mean_square_error(jnp.array([3.0, 1.0]), jnp.array([0.0, 4.0])))
        3.0
    """
    return jnp.sqrt(jnp.mean((outputs - targets) ** 2))


ACCURACY = Score("accuracy", accuracy, highest=True)
RIGHT_SIGNS = Score("accuracy", right_signs, highest=True)
ERROR = Score("root mean square error", root_mean_square_error)


def supervised(
    name: str,
    summary: str,
    source: str,
    *,
    model: layers.Layer,
    loss: Callable[..., Array],
    parts: Sequence[Data],
    penalty: ValueFunction | None = None,
    score: Score = ACCURACY,
    batch_size: int | None,
    budget: Budget,
    target: float,
) -> Problem:
    """The problem of training a network on examples.

    Args:
        name: what it is called on the command line.
        summary: one line for people.
        source: where it comes from.
        model: the network.
        loss: `loss(outputs, target) -> scalar` of one example.
        parts: training, validation and test examples.
        penalty: what rules minimize besides the mean loss over the training examples, if anything.
        score: what the test examples are judged by.
        batch_size: examples in a mini-batch; None is all of them.
        budget: what a run may spend.
        target: the validation loss that counts as having arrived.

    Returns:
        The problem.

    Example:
        >>> from fnn import data, layers, losses
        >>> flowers = data.split(data.iris(), (0.6, 0.2, 0.2), jax.random.key(0))
        >>> problem = supervised(
        ...     "linear-iris", "iris without hidden units", "Fisher (1936)",
        ...     model=layers.dense(3), loss=losses.softmax_cross_entropy, parts=flowers,
        ...     batch_size=None, budget=Budget(100, "steps"), target=0.3,
        ... )
        >>> problem.init(jax.random.key(0))["weight"].shape
        (4, 3)
    """
    train, validation, test = parts
    objective = Objective(model.apply, loss, penalty)

    def judge(params: PyTree, test: Data) -> Scalar:
        return score.of(objective.outputs(params, test.inputs), test.targets)

    return Problem(
        name=name,
        summary=summary,
        source=source,
        init=lambda key: model.init(key, jax.tree.map(lambda a: a[0], train.inputs)),
        objective=objective,
        train=train,
        validation=validation,
        test=test,
        measure=Measure(score.name, judge, score.highest),
        batch_size=batch_size,
        budget=budget,
        target=target,
    )


def network(
    widths: Sequence[int],
    activation: Callable[[Array], Array] = jnp.tanh,
    *,
    last: Callable[[Array], Array] | None = None,
    start: jax.nn.initializers.Initializer | None = None,
) -> layers.Layer:
    """Dense layers with an activation between them.

    Args:
        widths: the outputs of each layer.
        activation: of the hidden units.
        last: activation of the outputs, if any.
        start: initializer of all weights and biases; by default that of `layers.dense`.

    Returns:
        The network.

    Example:
        >>> params = network([8, 1]).init(jax.random.key(0), jnp.zeros(3))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        41
    """

    def dense(width: int) -> layers.Layer:
        if start is None:
            return layers.dense(width)
        return layers.dense(width, weight=start, bias=start)

    *hidden, outputs = widths
    stack = [part for width in hidden for part in (dense(width), layers.elementwise(activation))]
    tail = [] if last is None else [layers.elementwise(last)]
    return layers.serial(*stack, dense(outputs), *tail)


def standardized(parts: Sequence[Data], *, targets: bool = False) -> tuple[Data, ...]:
    """Examples with inputs of mean 0 and variance 1 on the first part, the training examples.

    The others are moved and scaled by the same numbers, so that nothing is learned from them.

    Args:
        parts: training examples, then others.
        targets: whether targets are standardized likewise.

    Returns:
        As many parts. A column that is constant on the first part becomes 0 there.

    Example:
        >>> import numpy as np
        >>> columns = np.array([[1.0], [3.0]]), np.array([[5.0]])
        >>> train, test = standardized([Data(x, x) for x in columns])
        >>> train.inputs.tolist(), test.inputs.tolist(), test.targets.tolist()
        ([[-1.0], [1.0]], [[3.0]], [[5.0]])
    """
    first = parts[0]
    inputs = standardization(first.inputs)
    outputs = standardization(first.targets) if targets else None
    return tuple(
        Data(
            inputs.apply(part.inputs),
            part.targets if outputs is None else outputs.apply(part.targets),
        )
        for part in parts
    )
