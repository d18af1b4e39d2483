"""Steps from an eigenbasis: what to do with negative curvature.

In the eigenvectors of C the quadratic model falls apart into one parabola for each,

    q(d) = sum of  slopes c + 1/2 values c^2,        d = the eigenvectors weighted with c

and methods that no single linear system describes are formulas for c:

    absolute        c = -slopes / (|values| + damping)
    trust_region    the least q with |d| <= radius
    cubic           the least q + weight/3 |d|^3

Both of the last are c = -slopes / (values + shift) with the one shift >= 0, at least minus the
lowest value, that solves a scalar equation,

    |c(shift)| = radius        or        |c(shift)| = shift / weight

(or with shift 0, where that is short enough). Between 1/|c| and the reciprocal of the other side,
both equations are increasing and concave: Newton's iteration from the left neither leaves nor
passes the solution. In the *hard case*, where the gradient has no part along the lowest value, what
is missing in length is added along its eigenvector. The unknown is the distance from the pole, so
that nothing cancels when the solution comes close to it.

The eigenvectors are those of C itself, P x P numbers, or those of C in a subspace of a few vectors
that Lanczos' iteration finds from the gradient, each for a product with C.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from fnn.products import dot
from fnn.solvers.ladder import in_float64
from fnn.solvers.system import (
    Counts,
    RightHandSide,
    Solution,
    Solver,
    System,
    cast,
    conclude,
    curvature_bound,
    entries,
    flat_shift,
    gradient,
    is_number,
    over,
    require_matching,
    widen,
    working_dtype,
)

DENSE = 2000
"""The most parameters whose matrix is diagonalized unless told: some seconds."""

SUBSPACE = 32
"""The dimension of the subspace for more parameters than that."""

_MATRICES = 4
"""Float64 matrices alive at once in an eigendecomposition: C, the eigenvectors, the workspace."""

_WORD = 8
"""Bytes of a float64."""


class Eigenbasis(NamedTuple):
    """A quadratic model in the eigenvectors of its matrix, or of its matrix in a subspace.

    Attributes:
        values: Eigenvalues of C + P, ascending.
        slopes: The gradient along the eigenvectors.
        cut: What is 0 up to rounding among the values.
        ok: Whether matrix and gradient are finite; else all solutions are rejected.
        solution: `(c, damping) -> Solution`, the step `c` weights the eigenvectors to; its residual
            is that of `(C + P + damping) d = -g`.
    """

    values: Float[Array, " k"]
    slopes: Float[Array, " k"]
    cut: Float[Array, ""]
    ok: Bool[Array, ""]
    solution: Callable[..., Solution]


def eigenbasis(
    system: System,
    rhs: RightHandSide,
    subspace: int | None = None,
    memory_budget: float = 2**30,
) -> Eigenbasis:
    """The quadratic model in the eigenvectors of C + P.

    Args:
        system: Any; without rows is welcome.
        rhs: The gradient.
        subspace: The dimension of a Lanczos subspace, at least 1; P or more is exact. None
            diagonalizes C, where P is at most 2000 and the matrices fit, and else takes 32
            vectors, or as many as fit.
        memory_budget: Bytes, > 0.

    Returns:
        The basis.

    Raises:
        ValueError: If the subspace is empty.

    Source:
        Golub and Van Loan, Matrix Computations (2013), section 10.3, with full reorthogonalization.

    Differs:
        Where the subspace is invariant before it is complete (and from a gradient of zero), the
        iteration goes on from a random direction: it may find negative curvature that the gradient
        does not see. The projected matrix is kept whole, not as its three diagonals.

    >>> from fnn.solvers import from_rows
    >>> system = from_rows(jnp.diag(jnp.array([3.0, 1.0])), jnp.zeros(2))
    >>> eigenbasis(system, RightHandSide(None, jnp.array([0.0, 2.0]))).values.tolist()
    [1.0, 9.0]
    """
    size = entries(system.like)
    if subspace is not None and subspace < 1:
        raise ValueError(
            f"eigenbasis: expected subspace >= 1, got {subspace}; try None for a choice by size"
        )
    grad, unravel = ravel_pytree(gradient(system, require_matching(system, rhs, 0.0)))
    penalty = flat_shift(system, 0.0)

    def product(flat: Array) -> Array:
        image = system.multiply(cast(unravel(flat), system.like))
        return ravel_pytree(widen(system, image))[0] + penalty * flat

    fits = size <= DENSE and _MATRICES * _WORD * size**2 <= memory_budget
    if subspace is None and fits and system.normal is not None:
        matrix = (system.normal() + jnp.diag(penalty)).astype(grad.dtype)
        basis, projected, iterations = None, grad, 0
    else:
        most = max(1, int(memory_budget / (_WORD * size)))
        iterations = min(size, min(SUBSPACE, most) if subspace is None else subspace)
        basis, matrix = lanczos(product, grad, iterations)
        projected = dot(basis, grad)
    values, vectors, finite = diagonalize(matrix)
    eps = jnp.finfo(working_dtype(system)).eps
    cut = len(values) * eps * jnp.max(jnp.abs(values))
    slopes = dot(vectors.T, projected)
    # Where neither curvature nor slope is more than rounding their ratio would be anything.
    noise = (jnp.abs(values) <= cut) & (jnp.abs(slopes) <= size * eps * jnp.linalg.norm(grad))
    slopes = jnp.where(noise, 0.0, slopes)
    ok = finite & jnp.all(jnp.isfinite(grad))
    counts = Counts.of(
        eigen=ok, rejected=~ok, negative=ok & (values[0] < -cut), iterations=jnp.asarray(iterations)
    )

    def solution(c: Float[Array, " k"], damping: Array | float = 0.0) -> Solution:
        step = dot(vectors, c) if basis is None else dot(basis.T, dot(vectors, c))
        return conclude(
            system._replace(penalty=None),  # it is part of the values
            unravel(step),
            slope=jnp.sum(slopes * c),
            curvature_along=jnp.sum(values * c**2),
            residual=jnp.linalg.norm(product(step) + damping * step + grad),
            scale=jnp.linalg.norm(grad),
            counts=counts,
        )

    return Eigenbasis(values, slopes, cut, ok, solution)


@functools.cache
def absolute(subspace: int | None = None, memory_budget: float = 2**30) -> Solver:
    """The step `(|C + P| + damping) d = -g`, |.| of the eigenvalues: downhill along all of them.

        c = -slopes / (|values| + damping)

    A divisor of 0 up to rounding says nothing about how far to go: there the step is that of
    gradient descent, and the divisor the root of the sum of squares of all values (1 without any).

    Args:
        subspace: See `eigenbasis`.
        memory_budget: Bytes, > 0.

    Returns:
        The solver; its damping is one number.

    >>> from fnn.solvers import System
    >>> system = System(jnp.zeros(1), lambda v: -2 * v, lambda: jnp.array([[-2.0]]))
    >>> print(absolute().solve(system, RightHandSide(None, jnp.array([3.0])), 1.0).step)
    [-1.]
    """

    def prepare(system: System) -> Callable[[RightHandSide, PyTree], Solution]:
        def trial(rhs: RightHandSide, damping: PyTree) -> Solution:
            if not is_number(damping):
                raise TypeError(
                    "absolute: expected one number for the damping, got a tree; try "
                    "solvers.primal(), which takes any"
                )
            basis = eigenbasis(
                system, require_matching(system, rhs, damping), subspace, memory_budget
            )
            sizes = jnp.abs(basis.values) + damping
            flat = sizes <= basis.cut
            sizes = jnp.where(flat, curvature_bound(basis.values), sizes)
            return basis.solution(-basis.slopes / sizes, damping)

        return trial

    return Solver("absolute", prepare)


def trust_region(basis: Eigenbasis, radius: Array | float) -> Float[Array, " k"]:
    """The least of the model within a ball, exactly, the hard case included.

    Args:
        basis: The model.
        radius: Number >= 0.

    Returns:
        The weights of the eigenvectors.

    Source:
        Moré and Sorensen (1983), "Computing a trust region step", doi:10.1137/0904038; in a
        subspace Gould, Lucidi, Roma and Toint (1999), doi:10.1137/S1052623497322735.

    >>> model = Eigenbasis(jnp.array([-2.0, 4.0]), jnp.array([0.0, 3.0]), 1e-6, True, None)
    >>> print(trust_region(model, 1.3).round(3))  # the hard case
    [ 1.2 -0.5]
    """
    gaps, _, slopes = _above_the_pole(basis)
    radius = jnp.asarray(radius, slopes.dtype)
    least = jnp.abs(slopes) / jnp.where(radius > 0, radius, 1.0) - gaps
    return jnp.where(radius > 0, _secular(basis, least, lambda _: radius, 0.0), 0.0)


def cubic(basis: Eigenbasis, weight: Array | float) -> Float[Array, " k"]:
    """The least of the model with `weight/3 |d|^3` added, exactly, the hard case included.

    Args:
        basis: The model.
        weight: Number > 0.

    Returns:
        The weights of the eigenvectors.

    Source:
        Cartis, Gould and Toint (2011), "Adaptive cubic regularisation methods for unconstrained
        optimization, part I", section 6.1, doi:10.1007/s10107-009-0286-5.

    >>> model = Eigenbasis(jnp.array([-2.0, 4.0]), jnp.array([0.0, 3.0]), 1e-6, True, None)
    >>> print(cubic(model, 2 / 1.3).round(3))  # the hard case, weight |c| = 2
    [ 1.2 -0.5]
    """
    gaps, pole, slopes = _above_the_pole(basis)
    weight = jnp.asarray(weight, slopes.dtype)
    # Where each part of c alone would be as long as it must be.
    product, total = weight * jnp.abs(slopes), gaps + pole
    root = jnp.sqrt((gaps - pole) ** 2 + 4 * product)
    least = 2 * over(product - gaps * pole, total + root)
    return _secular(basis, least, lambda x: (x + pole) / weight, 1 / weight)


def _above_the_pole(basis: Eigenbasis) -> tuple[Array, Array, Array]:
    """Gaps, pole and slopes: with x >= 0, `shift = pole + x` and `values + shift = gaps + x`."""
    lowest = jnp.minimum(basis.values[0], 0.0)
    return basis.values - lowest, -lowest, basis.slopes


def _secular(
    basis: Eigenbasis, least: Array, target: Callable[[Array], Array], slope: Array | float
) -> Array:
    """The c of length `target(x)`, or shorter at x = 0; below `least` a part alone is too long."""
    gaps, pole, slopes = _above_the_pole(basis)
    tolerance = jnp.finfo(slopes.dtype).eps ** 0.75

    def at(x: Array) -> Array:
        return -over(slopes, gaps + x)

    def going(now: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        before, x, count = now
        too_long = jnp.linalg.norm(at(x)) > (1 + tolerance) * target(x)
        return too_long & (x > before) & (count < 100)

    def newton(now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, x, count = now
        c, aim = at(x), target(x)
        length = jnp.linalg.norm(c)
        fall = jnp.sum(over((c / length) ** 2, gaps + x))
        return x, x + (length - aim) / (fall * aim + slope * length / aim), count + 1

    start = jnp.maximum(jnp.max(least), 0.0)
    first = -jnp.ones_like(start), start, jnp.zeros((), jnp.int32)
    _, x, _ = jax.lax.while_loop(going, newton, first)
    c, aim = at(x), target(x)
    length = jnp.linalg.norm(c)
    c = c * jnp.where(length > aim, over(aim, length), 1.0)
    hard = (pole > basis.cut) & (x == 0)
    missing = jnp.sqrt(jnp.maximum((aim - length) * (aim + length), 0.0))
    return c.at[0].add(jnp.where(hard, missing, 0.0))


def diagonalize(
    matrix: Float[Array, "n n"],
) -> tuple[Float[Array, " n"], Float[Array, "n n"], Bool[Array, ""]]:
    """Eigenvalues and eigenvectors of a symmetric matrix; lanes in turn, as in the ladder.

    Derivatives, forward and reverse, are those of perturbation theory. Among eigenvalues that are
    equal up to rounding no vector turns: right for what does not depend on their choice.

    Args:
        matrix: Symmetric; in float64 where the device has it.

    Returns:
        Values, ascending; vectors, in columns; whether the matrix is finite. If not, values are 0.

    >>> values, _, finite = diagonalize(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> print(values.round(4), finite)
    [1. 3.] True
    """
    return _differentiable(matrix)


@jax.custom_jvp
def _differentiable(matrix: Array) -> tuple[Array, Array, Array]:
    """What `diagonalize` returns, with the derivative below."""
    return _in_turn(matrix)


@_differentiable.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple, tuple]:
    """First-order perturbation theory."""
    values, vectors, finite = _differentiable(*primals)
    (change,) = tangents
    change = dot(vectors.T, dot((change + change.T) / 2, vectors))
    gaps = values[None] - values[:, None]
    apart = jnp.abs(gaps) > len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    turns = jnp.where(apart, change / jnp.where(apart, gaps, 1.0), 0.0)
    change, turns = (jnp.where(finite, tangent, 0.0) for tangent in (change, turns))
    none = np.zeros(jnp.shape(finite), jax.dtypes.float0)
    return (values, vectors, finite), (jnp.diagonal(change), dot(vectors, turns), none)


@sequential_vmap
def _in_turn(matrix: Array) -> tuple[Array, Array, Array]:
    """The eigendecomposition, of one lane of a `vmap` after the other."""
    (values, vectors), finite = _eigh(matrix)
    return values, vectors, finite


@in_float64
def _eigh(eps: float, matrix: Array) -> tuple[tuple[Array, Array], Array]:
    """Values and vectors, and whether the matrix is finite."""
    del eps  # nothing is judged here
    finite = jnp.all(jnp.isfinite(matrix))
    return jnp.linalg.eigh(jnp.where(finite, matrix, 0.0), symmetrize_input=True), finite


def lanczos(
    product: Callable[[Array], Array], start: Float[Array, " P"], count: int
) -> tuple[Float[Array, "k P"], Float[Array, "k k"]]:
    """An orthonormal basis of the span of v, C v, C C v, ..., and C in it.

    Args:
        product: `v -> C v`, flat; C symmetric.
        start: v; of zeros, a random direction takes its place.
        count: k, from 1 to P.

    Returns:
        Q, its rows orthonormal, and Q C Q^T. Where the span is complete before its time the basis
        goes on from a random direction.

    >>> vectors, matrix = lanczos(lambda v: jnp.array([1.0, 3.0]) * v, jnp.ones(2), 2)
    >>> matrix.round(4).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    rounding = start.size * jnp.finfo(start.dtype).eps

    def outside(vectors: Array, vector: Array) -> Array:
        for _ in range(2):  # the second time takes what rounding left of the first
            vector = vector / jnp.linalg.norm(vector)
            vector = vector - dot(vectors.T, dot(vectors, vector))
        return vector / jnp.linalg.norm(vector)

    def another(index: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(0), index)
        return jax.random.normal(key, start.shape, start.dtype)

    def extend(index: Array, state: tuple) -> tuple:
        vectors, matrix, remainder, largest = state
        invariant = jnp.linalg.norm(remainder) <= rounding * largest
        remainder = jax.lax.cond(invariant, another, lambda _: remainder, index)
        vector = outside(vectors, remainder)
        vectors = vectors.at[index].set(vector)
        image = product(vector)
        row = dot(vectors, image)
        remainder = image - dot(vectors.T, row)
        largest = jnp.maximum(largest, jnp.linalg.norm(image))
        return vectors, matrix.at[index].set(row), remainder, largest

    none = jnp.zeros((count, start.size), start.dtype)
    square = jnp.zeros((count, count), start.dtype)
    begin = none, square, start, jnp.zeros((), start.dtype)
    vectors, matrix, *_ = jax.lax.fori_loop(0, count, extend, begin)
    return vectors, jnp.tril(matrix) + jnp.tril(matrix, -1).T
