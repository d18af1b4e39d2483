"""The ladder: from a symmetric matrix to a solution, whatever the matrix is like.

Three rungs, taken in turn and counted. Cholesky, when the matrix is safely positive definite; an
eigendecomposition with cut-off, when it is singular to rounding; rejection, when it is not finite.

The matrix is a pencil, `M = damping S + F`, because that is what damping does to a system: F is
formed once, the damping changes from trial to trial, and at damping zero the answer must be the
limit (a least-squares solution of least norm), not a division by zero. S is the identity unless
told.

Matrices of float32 are factored in float64 where the device has it, and what is singular is judged
by the precision of the matrix as it came: below it, the entries are rounding noise.

Lanes of a vmap are solved one after the other on a CPU, whose thread pool deadlocks on batched
factorizations; elsewhere the Cholesky rung is batched and only the lanes that need more are mapped.
On several devices each of them factors the whole matrix.

Derivatives, forward and reverse, are those of the solution; none passes through a factorization.
With M = damping S + F, Z the projector to what was cut off (0 where Cholesky held), and N = Z B,

    d inverse = M^-1 (dB - dM X - dS N) + M^-1 S M^-1 dM N + Z (dM M^-1 S X - dS X),    X = inverse

for the price of one more solution. What was cut off stays cut off: this is the derivative along
matrices of the same rank, for where the rank changes there is none. That of a rejected solution is
zero. (Second derivatives are exact where nothing was cut off, and leave Z as it is elsewhere.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from fnn import devices
from fnn.products import dot
from fnn.solvers.system import Counts, all_finite

_HAVE_FLOAT64 = ("cpu", "gpu", "cuda", "rocm")
"""The backends that compute in float64; a TPU does not."""


class Rungs(NamedTuple):
    """What the ladder returns; with `M = damping S + F` and right-hand sides B.

    Attributes:
        inverse: `M^-1 B`.
        square: `M^-1 S M^-1 B`.
        remainder: `damping M^-1 B`, or its limit where M is singular: the part of `S^-1 B` that F
            cannot reach.
        counts: which rung it was, and whether a negative eigenvalue was cut off.
    """

    inverse: Float[Array, "n k"]
    square: Float[Array, "n k"]
    remainder: Float[Array, "n k"]
    counts: Counts


Spectrum = Callable[[Array, Array], Array]


def positive(values: Float[Array, " n"], cut: Float[Array, ""]) -> Float[Array, " n"]:
    """Inverse eigenvalues of a matrix that should be positive semi-definite.

    Args:
        values: The eigenvalues.
        cut: What is 0 up to rounding.

    Returns:
        `1 / values` where above the cut, 0 elsewhere: what is negative is taken for rounding.

    >>> positive(jnp.array([2.0, 1e-9, -2.0]), 1e-6).tolist()
    [0.5, 0.0, 0.0]
    """
    return jnp.where(values > cut, 1 / jnp.where(values > cut, values, 1.0), 0.0)


def signed(values: Float[Array, " n"], cut: Float[Array, ""]) -> Float[Array, " n"]:
    """Inverse eigenvalues of an indefinite matrix, whose saddle is as welcome as a minimum.

    Args:
        values: The eigenvalues.
        cut: What is 0 up to rounding.

    Returns:
        `1 / values` where above the cut in size, 0 elsewhere.

    >>> signed(jnp.array([2.0, 1e-9, -2.0]), 1e-6).tolist()
    [0.5, 0.0, -0.5]
    """
    return jnp.sign(values) * positive(jnp.abs(values), cut)


def ladder(
    matrix: Float[Array, "n n"],
    rhs: Float[Array, "n k"],
    damping: Float[Array, ""] | float = 0.0,
    metric: Float[Array, "n n"] | None = None,
    spectrum: Spectrum = positive,
    dtype: Any = None,
) -> Rungs:
    """The solution of `(damping S + F) X = B` by the first rung that holds.

    1. *Cholesky* of the matrix scaled to unit diagonal, refined once where its precision is no
       more than the matrix's. Accepted when finite, when the smallest eigenvalue (of the scaled
       matrix, by one inverse iteration from its weakest pivot) is above ten times the rounding of
       the matrix's dtype, and when the equations hold to a tenth.
    2. *Eigendecomposition* of `S^-1/2 F S^-1/2`; eigenvalues of the pencil below `n eps` of the
       largest are cut off, negative ones as well unless `spectrum` says otherwise. At damping 0
       this is the pseudo-inverse. What is cut depends on units; a matrix for `signed` that is
       regular in some units is therefore inverted in those.
    3. *Rejected*: zeros.

    Args:
        matrix: F, symmetric, positive semi-definite up to rounding (else see the second rung).
        rhs: B, one column for each right-hand side.
        damping: Number >= 0.
        metric: S, symmetric positive definite; the identity when None.
        spectrum: How eigenvalues are inverted: `positive`, or `signed` for matrices that may be
            indefinite.
        dtype: In which it is factored, if that is wider than the matrix; None is float64 where the
            device has it.

    Returns:
        The solutions and the count of the rung.

    Differs:
        `numpy.linalg.lstsq` cuts singular values of A below `eps`; a matrix `A A^T` has lost those
        below `sqrt(n eps)` of the largest, and here they are cut off.

    >>> singular = jnp.array([[1.0, 1.0], [1.0, 1.0]])
    >>> solved = ladder(singular, jnp.array([[1.0], [3.0]]))
    >>> solved.inverse.ravel().round(4).tolist(), int(solved.counts.eigen)
    ([1.0, 1.0], 1)
    """
    dtype = None if dtype is None else jnp.dtype(dtype)
    system = devices.everywhere((matrix, rhs, jnp.asarray(damping, matrix.dtype), metric))
    return devices.everywhere(_differentiable(spectrum, dtype, *system))


def in_float64(function: Callable, dtype: Any = None) -> Callable:
    """`(matrix, *arrays) -> (arrays, flag)`, run in float64 (or `dtype`) where it is there."""

    @functools.wraps(function)
    def wide(matrix: Array, *others: Any) -> Any:
        given = matrix.dtype
        has = jax.default_backend() in _HAVE_FLOAT64
        asked = (jnp.float64 if has else given) if dtype is None else dtype
        working = max(jnp.dtype(asked), given, key=lambda one: one.itemsize)
        double = working == jnp.float64
        with jax.enable_x64(double), jax.default_matmul_precision("highest"):
            cast = jax.tree.map(lambda array: array.astype(working), (matrix, *others))
            # The eps by which it is judged is that of the matrix as it was given.
            solutions, flag = function(float(jnp.finfo(given).eps), *cast)
            return tuple(solution.astype(given) for solution in solutions), flag

    return wide


def _cholesky(
    eps: float, matrix: Array, rhs: Array, damping: Array, metric: Array | None
) -> tuple[tuple[Array, Array, Array], Array]:
    """The first rung, and whether it holds."""

    def times(right: Array) -> Array:
        return matrix @ right + damping * (right if metric is None else metric @ right)

    full = matrix + damping * (
        jnp.eye(len(matrix), dtype=matrix.dtype) if metric is None else metric
    )
    diagonal = jnp.diagonal(full)
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(diagonal), 1.0)[:, None]
    # LAPACK reads columns: of a symmetric matrix it may have the rows for them, and spares a copy.
    factor = jax.lax.linalg.cholesky((full * scale * scale.T).T, symmetrize_input=False)

    forward = functools.partial(solve_triangular, factor, lower=True)
    backward = functools.partial(solve_triangular, factor, lower=True, trans=1)

    # Every pass over a large factor costs memory's time, whatever the number of columns: the
    # solution, its refinement and the search for a small eigenvalue share four of them.
    # A small pivot proves a small eigenvalue, but a small eigenvalue may hide behind larger pivots:
    # the null vector that the weakest pivot points to, improved once, finds it.
    # (A mask, not an index: integers of 64 bits cannot leave the float64 block.)
    pivots = jnp.diagonal(factor)
    start = (pivots == jnp.min(pivots)).astype(pivots.dtype)[:, None]
    first = backward(jnp.concatenate([forward(scale * rhs), start], axis=1))
    inverse, vector = scale * first[:, :-1], first[:, -1:]
    squared = inverse if metric is None else metric @ inverse
    count = rhs.shape[1]
    refined = eps <= jnp.finfo(matrix.dtype).eps  # else the factorization has digits to spare
    rest = (rhs - times(inverse)) if refined else jnp.zeros_like(rhs[:, :0])
    columns = jnp.concatenate([scale * squared, scale * rest, vector], axis=1)
    second = backward(forward(columns))
    square = scale * second[:, :count]
    least = jnp.linalg.norm(vector) / jnp.linalg.norm(second[:, -1])
    solved = jnp.ones((), bool)
    if refined:
        inverse = inverse + scale * second[:, count:-1]
        residual = jnp.linalg.norm(rhs - times(inverse), axis=0)
        solved = jnp.all(residual <= 0.1 * jnp.linalg.norm(rhs, axis=0))
    good = solved & (least > 10 * eps) & jnp.all(jnp.isfinite(inverse))
    return (inverse, square, damping * inverse), good


def _eigen(
    spectrum: Spectrum,
    eps: float,
    matrix: Array,
    rhs: Array,
    damping: Array,
    metric: Array | None,
) -> tuple[tuple[Array, Array, Array], Array]:
    """The second rung, and whether an eigenvalue was negative by more than rounding."""
    pseudo_inverse = functools.partial(_pseudo_inverse, spectrum, eps, matrix, rhs, damping, metric)
    if spectrum is not signed or metric is not None:
        return pseudo_inverse()
    # A positive matrix that is regular in some units has passed the first rung; one with a row of
    # zeros, as of a dead unit, is so in none.
    no, none = jnp.zeros((), bool), jnp.zeros_like(rhs)
    rows = jnp.max(jnp.abs(_damped(matrix, damping)), axis=1)
    solved, is_regular = jax.lax.cond(
        jnp.all(rows > 0),
        lambda: _regular(eps, matrix, rhs, damping),
        lambda: (((none, none, none), no), no),
    )
    return jax.lax.cond(is_regular, lambda: solved, pseudo_inverse)


def _regular(
    eps: float, matrix: Array, rhs: Array, damping: Array
) -> tuple[tuple[tuple[Array, Array, Array], Array], Array]:
    """What `_pseudo_inverse` gives if nothing is cut off, and whether that is so in some units."""
    # In the units in which the largest entry of every row is near 1 (Ruiz, 2001).
    full = _damped(matrix, damping)

    def advance(_: Any, scale: Array) -> Array:
        largest = jnp.max(jnp.abs(full * scale * scale.T), axis=1, keepdims=True)
        return scale * jnp.where(largest > 0, jax.lax.rsqrt(largest), 1.0)

    # Each turn halves the decades by which entries differ: sixteen leave nothing of 24.
    scale = jax.lax.fori_loop(0, 16, advance, jnp.ones_like(full[:, :1]))
    values, vectors = jnp.linalg.eigh(full * scale * scale.T)
    cut = len(matrix) * eps * jnp.max(jnp.abs(values))
    weights = signed(values, cut)[:, None]

    def solve(right: Array) -> Array:
        return scale * (vectors @ (weights * (vectors.T @ (scale * right))))

    inverse = solve(rhs)
    inverse = inverse + solve(rhs - full @ inverse)
    solutions = inverse, solve(inverse), damping * inverse
    return (solutions, jnp.min(values) < -cut), jnp.all(jnp.abs(values) > cut)


def _pseudo_inverse(
    spectrum: Spectrum,
    eps: float,
    matrix: Array,
    rhs: Array,
    damping: Array,
    metric: Array | None,
) -> tuple[tuple[Array, Array, Array], Array]:
    """The solutions in the span of the eigenvectors whose eigenvalues are not cut off."""
    if metric is None:
        inward = outward = lambda right: right
    else:
        factor = jnp.linalg.cholesky(metric)
        inward = functools.partial(solve_triangular, factor, lower=True)
        outward = functools.partial(solve_triangular, factor, lower=True, trans=1)
    values, vectors = jnp.linalg.eigh(_symmetric(inward(inward(_symmetric(matrix)).T)))
    total = values + damping
    cut = len(matrix) * eps * jnp.max(jnp.abs(total))
    inverse = spectrum(total, cut)[:, None]
    unreached = jnp.where(inverse == 0, 1.0, damping * inverse)
    parts = vectors.T @ inward(rhs)
    factors = inverse, inverse**2, unreached
    inverse, square, remainder = (outward(vectors @ (factor * parts)) for factor in factors)
    return (inverse, square, remainder), jnp.min(total) < -cut


def _damped(matrix: Array, damping: Array) -> Array:
    """The symmetric part of a matrix, damped."""
    return _symmetric(matrix) + damping * jnp.eye(len(matrix), dtype=matrix.dtype)


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _settle(spectrum: Spectrum, dtype: Any, first: tuple, *system: Any) -> Rungs:
    """The Cholesky rung where it held; else the next ones."""
    solutions, good = first
    eigen = in_float64(functools.partial(_eigen, spectrum), dtype)
    usable = all_finite(system)
    solutions, negative = jax.lax.cond(
        usable & ~good, lambda: eigen(*system), lambda: (solutions, jnp.zeros((), bool))
    )
    # The square may overflow where nobody reads it; who does sees it in the step.
    inverse, _, remainder = solutions
    ok = usable & all_finite((inverse, remainder))
    counts = Counts.of(cholesky=good & ok, eigen=~good & ok, rejected=~ok, negative=negative & ok)
    return Rungs(*jax.tree.map(lambda array: jnp.where(ok, array, 0.0), solutions), counts=counts)


def _climb(spectrum: Spectrum, dtype: Any, *system: Any) -> Rungs:
    """All rungs for one system."""
    return _settle(spectrum, dtype, in_float64(_cholesky, dtype)(*system), *system)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _differentiable(spectrum: Spectrum, dtype: Any, *system: Any) -> Rungs:
    """What `ladder` returns, with the derivative below."""
    return _climb_or_lanes(spectrum, dtype)(*system)


@_differentiable.defjvp
def _derivative(
    spectrum: Spectrum, dtype: Any, system: Sequence, tangents: Sequence
) -> tuple[Rungs, Rungs]:
    """The derivative of the module's docstring: linear in the tangents, so it can be transposed."""
    matrix, _, damping, metric = system
    d_matrix, d_rhs, d_damping, d_metric = tangents
    solved = _differentiable(spectrum, dtype, *system)
    inverse, square, remainder, counts = solved

    def times_S(right: Array) -> Array:
        return right if metric is None else dot(metric, right)

    def times_dS(right: Array) -> Array:
        return jnp.zeros_like(right) if metric is None else dot(d_metric, right)

    def times_dM(right: Array) -> Array:
        return dot(d_matrix, right) + d_damping * times_S(right) + damping * times_dS(right)

    def linear(read: Callable[[Rungs], Array]) -> Callable[[Array], Array]:
        def climbed(_: Any, right: Array) -> Array:
            return read(_climb_or_lanes(spectrum, dtype)(matrix, right, damping, metric))

        def times(right: Array) -> Array:
            return dot(matrix, right) + damping * times_S(right)

        return lambda right: jax.lax.custom_linear_solve(times, right, climbed, symmetric=True)

    solve = linear(lambda rungs: rungs.inverse)
    times_Z = linear(lambda rungs: rungs.remainder - damping * rungs.inverse)

    def where_cut(make: Callable[[], tuple]) -> tuple:
        def nothing() -> tuple:
            return jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make)
            )

        return jax.lax.cond(counts.eigen > 0, make, nothing)

    N = jnp.where(counts.eigen > 0, remainder - damping * inverse, 0.0)
    right = d_rhs - times_dM(inverse) - times_dS(N)

    def turned() -> tuple[Array, Array]:
        first = solve(times_dM(N))
        turn = times_Z(times_dM(square) - times_dS(inverse))
        return solve(times_S(first)) + turn, times_Z(right) - first

    def turned_again() -> tuple[Array]:
        return (times_Z(times_dM(solve(times_S(square))) - times_dS(square)),)

    more, d_N = where_cut(turned)
    d_inverse = solve(right) + more
    d_square = solve(times_dS(inverse) + times_S(d_inverse) - times_dM(square))
    d_square += where_cut(turned_again)[0]
    d_remainder = damping * d_inverse + d_damping * inverse + d_N
    ok = counts.rejected == 0
    parts = (jnp.where(ok, part, 0.0) for part in (d_inverse, d_square, d_remainder))
    none = jax.tree.map(lambda count: np.zeros(jnp.shape(count), jax.dtypes.float0), counts)
    return solved, Rungs(*parts, counts=none)


@functools.cache
def _climb_or_lanes(spectrum: Spectrum, dtype: Any) -> Any:
    """All rungs, with a rule for the lanes of a `vmap`; made once for each spectrum and dtype."""
    climb = custom_vmap(functools.partial(_climb, spectrum, dtype))

    @climb.def_vmap
    def lanes(_: int, in_batched: Sequence, *system: Any) -> tuple[Rungs, Rungs]:
        axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
        one_by_one = sequential_vmap(functools.partial(_climb, spectrum, dtype))
        rungs = jax.lax.platform_dependent(
            *system,
            cpu=jax.vmap(one_by_one, in_axes=axes),
            default=functools.partial(_batched, spectrum, dtype, axes),
        )
        return rungs, jax.tree.map(lambda _: True, rungs)

    return climb


def _batched(spectrum: Spectrum, dtype: Any, axes: tuple, *system: Any) -> Rungs:
    """All rungs where factorizations may be batched: Cholesky at once, the others in turn."""
    first = jax.vmap(in_float64(_cholesky, dtype), in_axes=axes)(*system)
    settle = sequential_vmap(functools.partial(_settle, spectrum, dtype))
    return jax.vmap(settle, in_axes=(0, *axes))(first, *system)
