"""Real classes: digits, flowers and other tables that scikit-learn carries, and two made ones."""

from collections.abc import Callable

import jax

from fnn import data, losses
from fnn.problems.problem import Budget, Problem
from fnn.problems.supervised import network, standardized, supervised


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
    standardize: bool = False,
) -> Problem:
    """One hidden layer of rectified units and softmax; 60 / 20 / 20 % of the examples."""
    everything = examples()
    parts = data.split(everything, (0.6, 0.2, 0.2), jax.random.key(0))
    return supervised(
        name,
        summary,
        source,
        model=network([hidden, int(everything.targets.max()) + 1], jax.nn.relu),
        loss=losses.softmax_cross_entropy,
        parts=standardized(parts) if standardize else parts,
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
        seconds=0.15,
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


def wine() -> Problem:
    """178 wines of three cultivars by 13 chemical measurements, a 13-16-3 network.

    Inputs are standardized by the training examples.

    Returns:
        The problem.

    Source:
        Aeberhard and Forina, "Wine", UCI Machine Learning Repository (1991).

    Example:
        >>> wine().train.inputs.shape
        (107, 13)
    """
    return _classification(
        "wine",
        "178 wines of three cultivars, 13-16-3",
        "Aeberhard and Forina (1991), as scikit-learn carries them",
        data.wine,
        hidden=16,
        batch_size=16,
        seconds=0.05,
        target=0.05,
        standardize=True,
    )


def breast_cancer() -> Problem:
    """569 breast tumors, malignant or benign, by 30 measurements, a 30-16-2 network.

    Inputs are standardized by the training examples.

    Returns:
        The problem.

    Source:
        Wolberg, Mangasarian, Street and Street, "Breast cancer Wisconsin (diagnostic)" (1993).

    Example:
        >>> breast_cancer().train.inputs.shape
        (341, 30)
    """
    return _classification(
        "breast-cancer",
        "569 breast tumors, malignant or benign, 30-16-2",
        "Wolberg et al. (1993), as scikit-learn carries them",
        data.breast_cancer,
        hidden=16,
        batch_size=32,
        seconds=0.05,
        target=0.05,
        standardize=True,
    )


def moons() -> Problem:
    """1000 points on two interleaved half circles with noise, a 2-16-2 network.

    Returns:
        The problem.

    Source:
        `make_moons` of scikit-learn, noise 0.1, seed 0.

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


def circles() -> Problem:
    """1000 points on a circle and a smaller one inside it with noise, a 2-16-2 network.

    Returns:
        The problem.

    Source:
        `make_circles` of scikit-learn, noise 0.1, factor 0.5, seed 0.

    Example:
        >>> circles().train.inputs.shape
        (600, 2)
    """
    return _classification(
        "circles",
        "1000 points on two circles, 2-16-2",
        "made by scikit-learn",
        data.circles,
        hidden=16,
        batch_size=25,
        seconds=0.1,
        target=0.05,
    )
