"""Data sets that scikit-learn carries with it, and splits."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from fnn import requirements

Dataset = TypeVar("Dataset", bound=PyTree)


class Data(NamedTuple):
    """A data set.

    Attributes:
        inputs: one row for each example.
        targets: one target for each example, a class (int32) or numbers.
    """

    inputs: np.ndarray
    targets: np.ndarray


# Sets that scikit-learn carries with it -----------------------------------------------------------


def digits() -> Data:
    """1797 handwritten digits of 8 x 8 pixels, in 10 classes.

    Returns:
        inputs (1797, 64) in [0, 1], the original counts 0..16 divided by 16; targets (1797,).

    Source:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
        Repository (1998), its test set, doi:10.24432/C50P49.

    Example:
        >>> inputs, targets = digits()
        >>> inputs.shape, float(inputs.max()), targets[:4].tolist()
        ((1797, 64), 1.0, [0, 1, 2, 3])
    """
    inputs, targets = _scikit_learn().load_digits(return_X_y=True)
    return _classes(inputs / 16, targets)


def iris() -> Data:
    """150 iris flowers, 50 of each of 3 species.

    Returns:
        inputs (150, 4), lengths and widths in cm of sepal and petal; targets (150,).

    Source:
        Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7
        (1936), table I, doi:10.1111/j.1469-1809.1936.tb02137.x.

    Example:
        >>> iris().inputs[0].tolist()
        [5.1, 3.5, 1.4, 0.2]
    """
    return _classes(*_scikit_learn().load_iris(return_X_y=True))


def wine() -> Data:
    """178 Italian wines of 3 cultivars.

    Returns:
        inputs (178, 13), chemical measurements of very different scales; targets (178,).

    Source:
        Aeberhard and Forina, "Wine", UCI Machine Learning Repository (1991), doi:10.24432/C5PC7J.

    Example:
        >>> wine().inputs.shape
        (178, 13)
    """
    return _classes(*_scikit_learn().load_wine(return_X_y=True))


def breast_cancer() -> Data:
    """569 breast tumors, malignant (0) or benign (1).

    Returns:
        inputs (569, 30), measurements of cell nuclei; targets (569,).

    Source:
        Wolberg, Mangasarian, Street and Street, "Breast cancer Wisconsin (diagnostic)", UCI
        Machine Learning Repository (1993), doi:10.24432/C5DW2B.

    Example:
        >>> int(breast_cancer().targets.sum())
        357
    """
    return _classes(*_scikit_learn().load_breast_cancer(return_X_y=True))


def diabetes() -> Data:
    """442 patients and the progress of their diabetes after a year: a regression.

    Returns:
        inputs (442, 10), columns of mean 0 and sum of squares 1; targets (442,), from 25 to 346.

    Source:
        Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", Annals of Statistics 32
        (2004), doi:10.1214/009053604000000067.

    Example:
        >>> diabetes().targets[:2].tolist()
        [151.0, 75.0]
    """
    return Data(*_scikit_learn().load_diabetes(return_X_y=True))


def moons(n: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Two interleaved half circles, one for each class.

    Args:
        n: how many examples, half of them in each class; > 0.
        noise: standard deviation of the Gaussian noise on the points; >= 0.
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Example:
        >>> moons(100).inputs.shape
        (100, 2)
    """
    return _classes(*_scikit_learn().make_moons(n, noise=noise, random_state=seed))


def circles(n: int = 1000, *, noise: float = 0.1, factor: float = 0.5, seed: int = 0) -> Data:
    """A circle of radius 1 (class 0) and a smaller one inside it (class 1).

    Args:
        n: how many examples, half of them in each class; > 0.
        noise: standard deviation of the Gaussian noise on the points; >= 0.
        factor: radius of the inner circle; in [0, 1).
        seed: the same seed gives the same points.

    Returns:
        inputs (n, 2); targets (n,).

    Example:
        >>> int(circles(100, noise=0.0).targets.sum())
        50
    """
    return _classes(*_scikit_learn().make_circles(n, noise=noise, factor=factor, random_state=seed))


def _scikit_learn():
    """Its module of data sets, or an error that names the extra."""
    return requirements.load("data", "sklearn.datasets")


def _classes(inputs, targets):
    """A data set whose targets are classes."""
    return Data(inputs, targets.astype(np.int32))


# Splits -------------------------------------------------------------------------------------------


def split(data: Dataset, fractions: Sequence[float], key: Key[Array, ""]) -> tuple[Dataset, ...]:
    """Disjoint parts of a data set, drawn at random, which together are all of it.

    Args:
        data: arrays whose first axis counts the examples, in a `Data` or any other tree.
        fractions: the share of each part; > 0, with sum 1.
        key: the same key gives the same parts.

    Returns:
        One data set for each fraction, of the same kind as `data`. Sizes are rounded.

    Raises:
        ValueError: if the fractions are not positive with sum 1, the arrays disagree on the number
            of examples, or a part would be empty.

    Example:
        >>> train, validation, test = split(iris(), (0.6, 0.2, 0.2), jax.random.key(0))
        >>> len(train.inputs), len(validation.inputs), len(test.targets)
        (90, 30, 30)
    """
    if any(fraction <= 0 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"split: expected positive fractions with sum 1, got {tuple(fractions)}; try "
            "(0.8, 0.1, 0.1)"
        )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError(
            f"split: expected arrays with one number of examples as first axis, got shapes {shapes}"
            "; try (inputs, targets)"
        )
    n = shapes[0][0]
    bounds = np.rint(n * np.cumsum(fractions)[:-1]).astype(int)
    parts = np.split(np.asarray(jax.random.permutation(key, n)), bounds)
    if min(map(len, parts)) == 0:
        raise ValueError(
            f"split: expected an example or more in each part, got sizes {[*map(len, parts)]} of "
            f"{n}; try larger fractions, or fewer of them"
        )
    return tuple(jax.tree.map(lambda leaf, part=part: leaf[part], data) for part in parts)
