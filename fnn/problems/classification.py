"""Real classes: digits, flowers and other tables that scikit-learn carries."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree, Scalar

from fnn import data, layers, losses
from fnn.objective import Objective
from fnn.problems.problem import Budget, Measure, Problem, accuracy


def _classification(
    name: str,
    summary: str,
    source: str,
    examples: Callable[[], data.Data],
    *,
    hidden: int,
    batch_size: int,
    seconds: float,
    target: float,
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

    def share(params: PyTree, examples: data.Data) -> Scalar:
        return accuracy(objective.outputs(params, examples.inputs), examples.targets)

    return Problem(
        name=name,
        summary=summary,
        source=source,
        init=lambda key: model.init(key, train.inputs[0]),
        objective=objective,
        train=train,
        validation=validation,
        test=test,
        measure=Measure("accuracy", share, highest=True),
        batch_size=batch_size,
        budget=Budget(seconds),
        target=target,
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
        "Alpaydin and Kaynak (1998), as scikit-learn carries them",
        data.digits,
        hidden=32,
        batch_size=32,
        seconds=0.3,
        target=0.12,
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
        "iris",
        "150 flowers of three species, 4-16-3",
        "Fisher (1936), as scikit-learn carries them",
        data.iris,
        hidden=16,
        batch_size=15,
        seconds=0.05,
        target=0.1,
    )


def moons() -> Problem:
    """1000 points on two interleaved half circles with noise, a 2-16-2 network.

    Returns:
        The problem.

    Example:
        >>> moons().train.inputs.shape
        (600, 2)
    """
    return _classification(
        "moons",
        "1000 points on two half circles, 2-16-2",
        "made by scikit-learn",
        data.moons,
        hidden=16,
        batch_size=25,
        seconds=0.1,
        target=0.05,
    )
