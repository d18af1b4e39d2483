"""Affine maps of features: centering, scaling, whitening.

Each function looks at training examples and returns an `Affine`, which maps these and all others:

    prepare = standardization(train.inputs)
    inputs = prepare.apply(test.inputs)
    prepare.invert(inputs)    # test.inputs again

Fitting is NumPy in float64. The map is a pytree of arrays, and maps NumPy arrays to NumPy arrays
and JAX arrays to JAX arrays, under `jit` and `vmap` too. Means and variances are over the N
examples (divided by N, not N - 1), so that whitened training examples have the identity as their
covariance, not nearly so.

**Directions without variance** (a pixel that is always 0, a feature given twice, fewer examples
than features) cannot be scaled to variance 1: they are mapped to 0, and `invert` gives them their
mean again. So what the training examples span is inverted exactly, and of other examples the part
that lies in it.

A whitening W has W^T W = M^-1, M being the covariance, and any rotation of one is another:

    pca_whitening         Lambda^-1/2 U^T, M = U Lambda U^T: axes are the principal components
    zca_whitening         U Lambda^-1/2 U^T = M^-1/2: as near to the inputs as can be
    cholesky_whitening    L^T with L L^T = M^-1: the j-th output sees the inputs from j on

Examples are rows here, so `Affine.forward` holds W^T.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Examples = TypeVar("Examples", np.ndarray, jax.Array)


class Affine(NamedTuple):
    """An affine map of features, and back.

    `apply` is (x - center) * forward where `forward` has one number for each feature, and
    (x - center) @ forward where it is a matrix.

    Attributes:
        center: the vector that is subtracted.
        forward: the factor that then multiplies.
        backward: the factor that undoes it.
    """

    center: Float[np.ndarray, " features"]
    forward: Float[np.ndarray, " features"] | Float[np.ndarray, "features features"]
    backward: Float[np.ndarray, " features"] | Float[np.ndarray, "features features"]

    def apply(self, x: Examples) -> Examples:
        """The images of examples.

        Args:
            x: one example, or any number along leading axes.

        Returns:
            As many, in the dtype of x where that is of floating point.
        """
        _require_features(x, self)
        return _like(_times(x - self.center, self.forward), x)

    def invert(self, y: Examples) -> Examples:
        """The examples that are mapped to y; where there are several, those nearest to the mean.

        Args:
            y: one example, or any number along leading axes.

        Returns:
            As many, in the dtype of y where that is of floating point.
        """
        _require_features(y, self)
        return _like(_times(y, self.backward) + self.center, y)


def centering(inputs: Float[np.ndarray, "n features"]) -> Affine:
    """`x - mean`: features of mean 0.

    Args:
        inputs: training examples.

    Returns:
        The map.

    Example:
        >>> centering(np.array([[1.0], [3.0]])).apply(np.array([[5.0]])).tolist()
        [[3.0]]
    """
    rows = _rows("centering", inputs)
    return _scaling(rows.mean(axis=0), np.ones(rows.shape[1]))


def standardization(inputs: Float[np.ndarray, "n features"]) -> Affine:
    """(x - mean) / standard deviation: features of mean 0 and variance 1.

    A feature that is constant becomes 0.

    Args:
        inputs: training examples.

    Returns:
        The map.

    Example:
        >>> standardization(np.array([[1.0, 7.0], [3.0, 7.0]])).apply(np.array([5.0, 7.0])).tolist()
        [3.0, 0.0]
    """
    rows = _rows("standardization", inputs)
    mean, spread = rows.mean(axis=0), np.ptp(rows, axis=0)
    return _scaling(mean, np.where(spread > 0, rows.std(axis=0), 1))


def min_max_scaling(inputs: Float[np.ndarray, "n features"]) -> Affine:
    """(x - least) / (greatest - least): training examples in [0, 1], others perhaps outside.

    A feature that is constant becomes 0.

    Args:
        inputs: training examples.

    Returns:
        The map.

    Example:
        >>> min_max_scaling(np.array([[1.0], [3.0]])).apply(np.array([[2.0], [5.0]])).tolist()
        [[0.5], [2.0]]
    """
    rows = _rows("min_max_scaling", inputs)
    spread = np.ptp(rows, axis=0)
    return _scaling(rows.min(axis=0), np.where(spread > 0, spread, 1))


def non_negative_shift(inputs: Float[np.ndarray, "n features"]) -> Affine:
    """`x + |most negative value|`: features with negative values are moved until the least is 0.

    Args:
        inputs: training examples.

    Returns:
        The map; features without negative values stay as they are.

    Example:
        >>> non_negative_shift(np.array([[-2.0, 4.0], [3.0, 5.0]])).apply(np.ones(2)).tolist()
        [3.0, 1.0]
    """
    rows = _rows("non_negative_shift", inputs)
    return _scaling(np.minimum(rows.min(axis=0), 0), np.ones(rows.shape[1]))


def pca_whitening(inputs: Float[np.ndarray, "n features"], *, eps: float = 0.0) -> Affine:
    """Principal components divided by their standard deviations, the largest first.

    Setting all but the first k outputs to 0 before `invert` reconstructs from k components. The
    sign of a component is such that its largest weight is positive.

    Args:
        inputs: training examples.
        eps: a number that is added to every variance, >= 0. An output of variance v gets the
            variance v / (v + eps), so that directions of little variance, mostly noise, stay small.

    Units:
        `eps` is that of the inputs, squared.

    Returns:
        The map; the last outputs are 0 where directions have no variance.

    Example:
        >>> x = np.array([[3.0, 3.0], [-3.0, -3.0], [1.0, -1.0], [-1.0, 1.0]])
        >>> print(pca_whitening(x).apply(x).round(2) + 0)
        [[ 1.41  0.  ]
         [-1.41  0.  ]
         [ 0.   -1.41]
         [ 0.    1.41]]
    """
    return _principal("pca_whitening", inputs, eps)[0]


def zca_whitening(inputs: Float[np.ndarray, "n features"], *, eps: float = 0.0) -> Affine:
    """M^-1/2 (x - mean): whitened and turned back, so that images still look like images.

    Of all whitenings it changes the (centered) inputs least, in the mean of squares. Distances
    become Mahalanobis's.

    Args:
        inputs: training examples.
        eps: added to every variance, >= 0; see `pca_whitening`.

    Units:
        `eps` is that of the inputs, squared.

    Returns:
        The map; `forward` is symmetric.

    Source:
        Kessy, Lewin and Strimmer (2018), "Optimal whitening and decorrelation", table 1,
        doi:10.1080/00031305.2016.1277159.

    Example:
        >>> x = np.array([[3.0, 3.0], [-3.0, -3.0], [1.0, -1.0], [-1.0, 1.0]])
        >>> print(zca_whitening(x).apply(x).round(2))
        [[ 1.  1.]
         [-1. -1.]
         [ 1. -1.]
         [-1.  1.]]
    """
    principal, components, _ = _principal("zca_whitening", inputs, eps)
    return _rotate(principal, components.T)


def cholesky_whitening(inputs: Float[np.ndarray, "n features"], *, eps: float = 0.0) -> Affine:
    """L^T (x - mean) with L L^T = M^-1: each output sees its own feature and those after it.

    Args:
        inputs: training examples.
        eps: added to every variance, >= 0; see `pca_whitening`.

    Units:
        `eps` is that of the inputs, squared.

    Returns:
        The map; `forward` is L, lower triangular.

    Raises:
        ValueError: if the covariance is singular, for then there is no L.

    Source:
        Kessy, Lewin and Strimmer (2018), table 1, doi:10.1080/00031305.2016.1277159.

    Example:
        >>> x = np.array([[3.0, 3.0], [-3.0, -3.0], [1.0, -1.0], [-1.0, 1.0]])
        >>> print(cholesky_whitening(x).forward.round(3) + 0)
        [[ 0.745  0.   ]
         [-0.596  0.447]]
    """
    principal, components, rank = _principal("cholesky_whitening", inputs, eps)
    if rank < len(components):
        raise ValueError(
            f"cholesky_whitening: expected a covariance of full rank, got rank {rank} of "
            f"{len(components)} features; try zca_whitening, or eps=1e-3"
        )
    # With P = principal.forward and P^T = Q R, M^-1 is P P^T = R^T R, so that L is R^T = P Q.
    rotation, upper = np.linalg.qr(principal.forward.T)
    whitening = _rotate(principal, rotation * np.where(np.diag(upper) < 0, -1, 1))
    forward, backward = np.tril(whitening.forward), np.tril(whitening.backward)
    return whitening._replace(forward=forward, backward=backward)


def _scaling(center, scale):
    """The map that subtracts `center` and divides by `scale`."""
    return Affine(center, 1 / scale, scale)


def _principal(name, inputs, eps):
    """PCA whitening, the components as columns, and the number of those that have variance."""
    if not eps >= 0:
        raise ValueError(f"{name}: expected eps >= 0, got {eps}; try 0.0 for exact whitening")
    rows = _rows(name, inputs)
    n, features = rows.shape
    mean = rows.mean(axis=0)
    # Small singular values would drown in the covariance, so it is not formed; those of the rows'
    # triangular factor are cheaper than those of the rows, and the same.
    _, values, components = np.linalg.svd(np.linalg.qr(rows - mean, mode="r"))
    deviations = np.zeros(features)
    deviations[: len(values)] = values / np.sqrt(n)
    # Deviations below the rounding of the rows are 0; a mean far from 0 makes this rounding larger
    # than that of the spread.
    size = max(deviations[0], np.abs(rows).max())
    deviations[deviations <= max(n, features) * np.finfo(float).eps * size] = 0
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = (components * np.sign(largest)).T
    scale = np.sqrt(deviations**2 + eps)
    has_variance = scale > 0
    inverse = np.where(has_variance, 1 / np.where(has_variance, scale, 1), 0)
    principal = Affine(mean, components * inverse, (components * scale).T)
    return principal, components, int(has_variance.sum())


def _rotate(whitening, rotation):
    """A whitening followed by a rotation."""
    forward, backward = whitening.forward @ rotation, rotation.T @ whitening.backward
    return whitening._replace(forward=forward, backward=backward)


def _rows(name, inputs):
    """Inputs as a matrix of finite float64."""
    rows = np.asarray(inputs, dtype=float)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"{name}: expected inputs of shape (n, features), one row for each example, got "
            f"{rows.shape}; try inputs.reshape(len(inputs), -1)"
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{name}: expected finite inputs, got {np.count_nonzero(~np.isfinite(rows))} that are "
            "not; try to leave these examples out"
        )
    return rows


def _require_features(x, affine):
    if np.shape(x)[-1:] != affine.center.shape:
        raise ValueError(
            f"Affine: expected examples with {affine.center.size} features on the last axis, got "
            f"shape {np.shape(x)}; try the features that the map was fitted to"
        )


def _times(x, factor):
    """The product, in full precision, or the way back would not lead to where it began."""
    with jax.default_matmul_precision("highest"):
        return x @ factor if factor.ndim == 2 else x * factor


def _like(mapped, x):
    return mapped.astype(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else float)
