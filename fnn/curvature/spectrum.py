"""The spectrum of an operator too large to write down, and the kind of point it belongs to.

    operator = curvature.hessian(value_fn, params)
    spectrum.extremes(operator, key)            # the lowest and the highest eigenvalue
    spectrum.density(operator, key)             # how they are distributed
    spectrum.trace(operator, key)
    spectrum.log_determinant(operator, key)
    print(spectrum.classify(value_fn, params))  # "A saddle: of 9 directions 2 down, ..."

All but `classify` take any `Operator`: Hessian, Gauss-Newton matrix or Fisher information. They
need nothing of it but products, and for k of them a memory of k x P numbers. Behind them is one
iteration, Lanczos', which from a vector v makes a k x k matrix T whose eigenvalues t approach those
of C, the extremes first. With v random and w the squared first components of the eigenvectors of T,

    v . f(C) v  is about  |v|^2 sum w f(t)        and its mean over v is the trace of f(C)

(exactly so for polynomials of degree 2k - 1): this is stochastic Lanczos quadrature. The mean over
`samples` vectors comes with its standard error. All numbers of an operator that is not finite are
NaN. Make the operator and use it inside one traced function.

(The package matfree has this quadrature too, but its iteration divides 0 by 0 where v, C v,
C C v, ... span fewer than k dimensions, as they do where curvature is zero or of a rank below k.
That of `solvers.lanczos`, which the rules share, goes on.)
"""

import enum
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Scalar

from fnn import solvers
from fnn.curvature.operators import Operator, hessian
from fnn.objective import wide
from fnn.products import HIGHEST, dot

__all__ = [
    "Density",
    "Estimate",
    "Extremes",
    "Kind",
    "Point",
    "classify",
    "density",
    "extremes",
    "log_determinant",
    "trace",
]
__dir__ = __all__.copy

# --- extreme eigenvalues ------------------------------------------------------------------------


class Extremes(NamedTuple):
    """The two ends of a spectrum.

    Attributes:
        values: the lowest and the highest eigenvalue found; the true ones do not lie between them.
        errors: for each, the distance within which there is an eigenvalue.
        directions: their eigenvectors of length 1, a tree with one more leading axis.
    """

    values: Float[Array, "2"]
    errors: Float[Array, "2"]
    directions: PyTree


def extremes(operator: Operator, key: Key[Array, ""], *, steps: int = 64) -> Extremes:
    """The lowest and the highest eigenvalue, with their directions.

    Args:
        operator: C.
        key: draws the vector to start from.
        steps: the number of products, at least 1; P or more are exact.

    Returns:
        The ends, and how far off they may be.

    Source:
        Golub and Van Loan, Matrix Computations (2013), section 10.1; Parlett, The Symmetric
        Eigenvalue Problem (1998), theorem 4.5.1, for the errors.

    Example:
        >>> from fnn.curvature.operators import hessian
        >>> operator = hessian(lambda x: x[0] ** 2 - 2 * x[1] ** 2, jnp.zeros(2))
        >>> extremes(operator, jax.random.key(0)).values.round(4).tolist()
        [-4.0, 2.0]
    """
    flat, product, unravel = _flattened(operator)
    count = _require_steps("extremes", steps, flat.size)
    start = jax.random.normal(key, flat.shape, flat.dtype)
    basis, matrix = solvers.lanczos(product, start, count)
    values, vectors = _eigen(matrix)
    ends = jnp.array([0, -1])
    directions = dot(vectors[:, ends].T, basis)
    images = jax.lax.map(product, directions)
    errors = jnp.linalg.norm(images - values[ends, None] * directions, axis=1)
    return Extremes(values[ends], errors, jax.vmap(unravel)(directions))


# --- quadrature ---------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean over random vectors.

    Attributes:
        value: the mean.
        error: its standard error; infinite for a single sample.
    """

    value: Scalar
    error: Scalar


class Density(NamedTuple):
    """The distribution of the eigenvalues, as nodes with weights: a row for each random vector.

    Attributes:
        nodes: places among the eigenvalues.
        weights: the share of the eigenvalues at each node; those of a row sum to 1.
    """

    nodes: Float[Array, "samples k"]
    weights: Float[Array, "samples k"]

    def mean(self, fn: Callable[[Array], Array]) -> Estimate:
        """The mean of a function over the eigenvalues: the trace of fn(C), divided by P.

        Args:
            fn: a function of an array, element by element.

        Returns:
            The mean, with the error that the random vectors leave in it.
        """
        # The function may not be finite at nodes without weight.
        images = jnp.where(self.weights > 0, fn(self.nodes), 0)
        return _mean(jnp.sum(self.weights * images, axis=1))

    def at(self, points: Float[Array, " points"], width: float | Scalar) -> Float[Array, " points"]:
        """The density at some points, every node widened to a bell curve.

        Args:
            points: the points.
            width: the standard deviation of the bell curves, > 0.

        Returns:
            Its values; the density has the integral 1.
        """
        distances = (points[:, None] - self.nodes.ravel()) / width
        bells = jnp.exp(-(distances**2) / 2) / (width * math.sqrt(2 * math.pi))
        return dot(bells, self.weights.ravel()) / len(self.nodes)


def density(
    operator: Operator, key: Key[Array, ""], *, samples: int = 8, steps: int = 64
) -> Density:
    """The spectral density, by stochastic Lanczos quadrature.

    Args:
        operator: C.
        key: draws the vectors.
        samples: the number of vectors, at least 1; the error falls as its square root.
        steps: the number of products for each, at least 1; it sets the resolution.

    Returns:
        Nodes and weights.

    Source:
        Ghorbani, Krishnan and Xiao (2019), "An investigation into neural net optimization via
        Hessian eigenvalue density", algorithm 1, arXiv:1901.10159; Lin, Saad and Yang (2016),
        doi:10.1137/130934283.

    Differs:
        The vectors consist of random signs, not of normal numbers.

    Example:
        >>> from fnn.curvature.operators import hessian
        >>> operator = hessian(lambda x: x[0] ** 2 + 2 * x[1] ** 2, jnp.zeros(2))
        >>> half = density(operator, jax.random.key(0), samples=2).mean(lambda value: value < 3)
        >>> print(half.value.round(4))
        0.5
    """
    flat, product, _ = _flattened(operator)
    count = _require_steps("density", steps, flat.size)

    def of_key(key: Array) -> tuple[Array, Array]:
        start = jax.random.rademacher(key, flat.shape, flat.dtype)
        values, vectors = _eigen(solvers.lanczos(product, start, count)[1])
        return values, vectors[0] ** 2

    return Density(*jax.lax.map(of_key, _split("density", key, samples)))


def trace(operator: Operator, key: Key[Array, ""], *, samples: int = 32) -> Estimate:
    """The sum of the eigenvalues, from one product for each random vector.

    `operator.trace()` is exact, and costs P products, or a gradient where the operator comes from a
    capture.

    Args:
        operator: C.
        key: draws the vectors.
        samples: the number of vectors, at least 1; the error falls as its square root.

    Returns:
        The estimate; it has no error where C is diagonal.

    Source:
        Hutchinson (1990), doi:10.1080/03610919008812866.

    Example:
        >>> from fnn.curvature.operators import hessian
        >>> operator = hessian(lambda x: x[0] ** 2 + 2 * x[1] ** 2, jnp.zeros(2))
        >>> print(trace(operator, jax.random.key(0)).value)
        6.0
    """
    flat, product, _ = _flattened(operator)

    def of_key(key: Array) -> Array:
        vector = jax.random.rademacher(key, flat.shape, flat.dtype)
        return jnp.vdot(vector, product(vector), precision=HIGHEST)

    return _mean(jax.lax.map(of_key, _split("trace", key, samples)))


def log_determinant(
    operator: Operator,
    key: Key[Array, ""],
    *,
    damping: float | Scalar = 0.0,
    samples: int = 8,
    steps: int = 64,
) -> Estimate:
    """The logarithm of |det(C + damping)|, the sum of log |eigenvalue + damping|.

    Args:
        operator: C. If it is singular and not damped, the determinant is 0 and the estimate, up to
            rounding, minus infinity.
        key: draws the vectors.
        damping: a number that is added to all eigenvalues, at least 0.
        samples: the number of vectors, at least 1.
        steps: the number of products for each, at least 1; more are needed where the smallest
            eigenvalues are of very different sizes.

    Returns:
        The estimate; its error is that of the vectors, and does not tell of too few steps.

    Source:
        Ubaru, Chen and Saad (2017), "Fast estimation of tr(f(A)) via stochastic Lanczos
        quadrature", doi:10.1137/16M1104974.

    Example:
        >>> from fnn.curvature.operators import hessian
        >>> operator = hessian(lambda x: x[0] ** 2 + 2 * x[1] ** 2, jnp.zeros(2))
        >>> print(log_determinant(operator, jax.random.key(0)).value.round(4))  # log 8
        2.0794
    """
    eigenvalues = density(operator, key, samples=samples, steps=steps)
    size = _flattened(operator)[0].size
    value, error = eigenvalues.mean(lambda values: jnp.log(jnp.abs(values + damping)))
    return Estimate(size * value, size * error)


# --- kinds of points ----------------------------------------------------------------------------


class Kind(enum.IntEnum):
    """The kind of a point, as far as the second order tells; `str` gives its name."""

    SLOPE = 0
    MINIMUM = 1
    SADDLE = 2
    MAXIMUM = 3
    PLATEAU = 4
    UNKNOWN = 5

    def __str__(self) -> str:
        """The name."""
        return _NAMES[self]


_NAMES = {
    Kind.SLOPE: "A slope",
    Kind.MINIMUM: "A minimum",
    Kind.SADDLE: "A saddle",
    Kind.MAXIMUM: "A maximum",
    Kind.PLATEAU: "A plateau",
    Kind.UNKNOWN: "Not finite",
}


class Point(NamedTuple):
    """A point on the surface of a function; `str` gives a sentence.

    Attributes:
        kind: a number of `Kind`.
        value: the value of the function.
        slope: the length of the gradient.
        lowest: the lowest eigenvalue of the Hessian.
        highest: its highest eigenvalue.
        negative: how many directions lead down; at least so many, where not all are known.
        flat: how many eigenvalues are 0 in comparison with the largest.
        known: how many eigenvalues were computed.
        size: the number of parameters.
    """

    kind: Int[Array, ""]
    value: Scalar
    slope: Scalar
    lowest: Scalar
    highest: Scalar
    negative: Int[Array, ""]
    flat: Int[Array, ""]
    known: int
    size: int

    def __str__(self) -> str:
        """The point in a sentence."""
        least = "" if self.known == self.size else "at least "
        flat = f" and {self.flat} flat" if self.known == self.size and self.flat else ""
        return (
            f"{Kind(int(self.kind))}: of {self.size} directions {least}{self.negative} down{flat}, "
            f"curvature {self.lowest:.3g} to {self.highest:.3g}, gradient {self.slope:.2g}, value "
            f"{self.value:.6g}."
        )


def classify(
    fn: Callable[[PyTree], Scalar],
    params: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    steps: int = 64,
    still: float | Scalar = 1e-3,
    flat: float | Scalar = 1e-6,
    reach: float | Scalar = 1.0,
    memory_budget: int = 2**30,
) -> Point:
    """The kind of point that the parameters are: minimum, saddle, maximum, plateau or slope.

    Lengths are measured by |params| or by `reach`, whichever is more.

    - On a plateau the function changes within that length by no more than `still` times its value,
      as far as gradient and curvature tell.
    - On a slope the point is farther than `still` times that length from where the gradient, at the
      largest curvature, would vanish.
    - Elsewhere the signs of the curvatures decide; those below `flat` times the largest count as 0.

    Args:
        fn: any twice differentiable `fn(params) -> scalar`; a value function is one.
        params: the point; real floating-point leaves.
        key: draws the vector that Lanczos' iteration starts from; None takes a fixed one.
        steps: the number of its products, for more than 2000 parameters. Then `negative` counts the
            directions that it found, and at least so many lead down.
        still: the relative size below which a change is none, at least 0.
        flat: the relative size below which a curvature is none, at least 0.
        reach: a length that is not small where the parameters are near the origin, above 0.
        memory_budget: bytes that the products made at once may take.

    Units:
        `reach` is params: 1e-9 where parameters are of 1e-9.

    Returns:
        The point.

    Example:
        >>> saddle = lambda p: p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4
        >>> print(classify(saddle, jnp.zeros(2)))
        A saddle: of 2 directions 1 down, curvature -2 to 2, gradient 0, value 0.
    """
    operator = hessian(fn, params, memory_budget=memory_budget)
    vector, product, _ = _flattened(operator)
    if vector.size <= solvers.DENSE:
        matrix = operator.dense()
    else:
        key = jax.random.key(0) if key is None else key
        start = jax.random.normal(key, vector.shape, vector.dtype)
        _, matrix = solvers.lanczos(product, start, _require_steps("classify", steps, vector.size))
    values, _ = _eigen(matrix)
    value, slope = wide(operator.value), jnp.linalg.norm(vector)
    largest = jnp.max(jnp.abs(values))
    reach = jnp.maximum(reach, jnp.linalg.norm(ravel_pytree(jax.tree.map(wide, params))[0]))
    rounding = vector.size * jnp.finfo(values.dtype).eps
    cut = largest * jnp.maximum(flat, rounding)
    down, up = jnp.sum(values < -cut), jnp.sum(values > cut)
    is_plateau = slope * reach + largest * reach**2 / 2 <= still * jnp.abs(value)
    is_slope = slope > still * largest * reach
    kind = _first_of(
        (~jnp.isfinite(value + slope + largest), Kind.UNKNOWN),
        (is_plateau, Kind.PLATEAU),
        (is_slope, Kind.SLOPE),
        (down == 0, Kind.MINIMUM),
        (up == 0, Kind.MAXIMUM),
        otherwise=Kind.SADDLE,
    )
    return Point(
        kind,
        value,
        slope,
        values[0],
        values[-1],
        negative=down,
        flat=len(values) - down - up,
        known=len(values),
        size=vector.size,
    )


def _first_of(*cases: tuple[Bool[Array, ""], int], otherwise: int) -> Int[Array, ""]:
    """The number of the first case whose condition holds."""
    kind = jnp.asarray(otherwise, jnp.int32)
    for condition, case in reversed(cases):
        kind = jnp.where(condition, case, kind)
    return kind


# --- what they share ----------------------------------------------------------------------------


def _flattened(operator: Operator) -> tuple[Array, Callable[[Array], Array], Callable]:
    """The gradient as a wide vector, the product with such vectors, and the way back to trees."""
    flat, unravel = ravel_pytree(jax.tree.map(wide, operator.grad))

    def back(vector: Array) -> PyTree:
        return jax.tree.map(lambda v, g: v.astype(g.dtype), unravel(vector), operator.grad)

    def product(vector: Array) -> Array:
        return ravel_pytree(jax.tree.map(wide, operator.product(back(vector))))[0]

    return flat, product, back


def _eigen(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues in ascending order, NaN if the matrix is not finite, and eigenvectors."""
    values, vectors, is_finite = solvers.diagonalize(wide(matrix))
    return jnp.where(is_finite, values, jnp.nan), vectors


def _mean(samples: Float[Array, " samples"]) -> Estimate:
    """The mean of samples and its standard error."""
    if len(samples) == 1:
        return Estimate(samples[0], jnp.full_like(samples[0], jnp.inf))
    return Estimate(jnp.mean(samples), jnp.std(samples, ddof=1) / len(samples) ** 0.5)


def _split(name: str, key: Array, samples: int) -> Array:
    """A key for each of at least one sample."""
    if samples < 1:
        raise ValueError(f"{name}: expected samples >= 1, got {samples}; try 8")
    return jax.random.split(key, samples)


def _require_steps(name: str, steps: int, size: int) -> int:
    """The number of steps that are of use, after the check that it is positive."""
    if steps < 1:
        raise ValueError(f"{name}: expected steps >= 1, got {steps}; try 64")
    return min(steps, size)
