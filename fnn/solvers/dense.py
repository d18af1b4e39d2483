"""Dense solvers: among the parameters (primal) and among the rows (dual)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from fnn.products import HIGHEST, dot
from fnn.solvers.ladder import Rungs, Spectrum, ladder, positive
from fnn.solvers.system import (
    RightHandSide,
    Solution,
    Solver,
    System,
    cast,
    conclude,
    curvature_bound,
    flat_shift,
    gradient,
    inner,
    is_number,
    needs,
    require_matching,
    shift_of,
    widen,
    working_dtype,
)


@functools.cache
def primal(spectrum: Spectrum = positive) -> Solver:
    """Cholesky among the P parameters: `(C + D) d = -g`.

    Forms C once, P^2 numbers; every trial costs a factorization, P^3 / 3 flops. Any D is welcome,
    Marquardt's as well. For few parameters and many rows, and for dense Hessians.

    Args:
        spectrum: How the eigenvalues of a matrix that Cholesky cannot factor are inverted:
            `positive` cuts off the negative ones; `signed` keeps them, and the step leads to a
            stationary point of the model, minimum or not, for the model to promise what it may.
            Where such a matrix M has no curvature and the gradient has a slope, there is no
            stationary point: along this part r of the gradient the step is that of gradient
            descent, -r / |M|, with the root of the sum of squares for the size of M (1 for M = 0).

    Returns:
        The solver.

    >>> from fnn.solvers import RightHandSide, from_rows
    >>> system = from_rows(jnp.array([[2.0]]), jnp.zeros(1))
    >>> round(float(primal().solve(system, RightHandSide(jnp.array([3.0])), 2.0).step[0]), 6)
    -1.0
    """
    return Solver("primal", functools.partial(_primal, spectrum))


def _primal(spectrum: Spectrum, system: System) -> Callable[[RightHandSide, PyTree], Solution]:
    """Forms C, and returns the trial that solves with it."""
    (normal,) = needs(system, "primal", "normal")
    curvature = normal().astype(working_dtype(system))

    def trial(rhs: RightHandSide, damping: PyTree) -> Solution:
        grad, unravel = ravel_pytree(gradient(system, require_matching(system, rhs, damping)))
        shift = flat_shift(system, damping)
        matrix = curvature + jnp.diag(shift)
        solved = ladder(matrix, -grad[:, None], spectrum=spectrum, dtype=system.solve)
        step = solved.inverse[:, 0]
        if spectrum is not positive:
            unreached = dot(matrix, step) + grad
            is_singular = solved.counts.eigen > 0
            step -= jnp.where(is_singular, unreached, 0) / curvature_bound(matrix)
        image = dot(curvature, step)
        return conclude(
            system,
            unravel(step),
            slope=inner(grad, step),
            curvature_along=inner(step, image),
            residual=jnp.linalg.norm(image + shift * step + grad),
            scale=jnp.linalg.norm(grad),
            counts=solved.counts,
            convex=spectrum is positive,
        )

    return trial


@functools.cache
def dual() -> Solver:
    """Cholesky among the R rows, never forming C.

        d = -h/D - (1/D) A^T (I + A (1/D) A^T)^-1 (s - A h/D)

    For h = 0 this is the push-through form, which does not cancel for small damping. To hold where
    D is 0 it is multiplied through by the floor `m = min D`. Call the leaves (or entries) where D
    is m *free* and the others *held*. With `F = A_f A_f^T`, `S = I + A_h (1/D_h) A_h^T` and h
    split alike,

        x = (m S + F)^-1 (s - A_h h_h/D_h)           c = (m S + F)^-1 A_f h_f
        d_f = -A_f^T x - (h_f - A_f^T c) / m          d_h = -(h_h + A_h^T (m x - c)) / D_h

    With one damping for all leaves nothing is held and S = I. At m = 0, x and m x are the ladder's
    limits and the step is the least-squares solution of least norm.

    The part of h outside the range of A^T is divided by m, so that about `eps |h| / m` of the step
    is lost to rounding. Where m is below `eps trace(F)` nothing would be left: there this part is
    dropped, as a least-squares solution drops it.

    The Gram matrices are formed once, one for every distinct penalty (as objects), R^2 numbers
    each; every trial costs a factorization, R^3 / 3 flops. A damping that is a tree forms them anew
    in every trial, and arrays in it (Marquardt's) ask for the general Gram matrix, which no
    factored form makes cheap: the primal takes those more easily. For few rows and many parameters.

    Returns:
        The solver.

    >>> from fnn.solvers import RightHandSide, from_rows
    >>> system = from_rows(jnp.array([[2.0]]), jnp.zeros(1))
    >>> round(float(dual().solve(system, RightHandSide(jnp.array([3.0])), 2.0).step[0]), 6)
    -1.0
    """
    return Solver("dual", _dual)


class _Rows(NamedTuple):
    """A system's rows in the working dtype: products with A, and a Gram matrix for each penalty."""

    system: System
    kinds: list[int]
    grams: Float[Array, "kinds rows rows"]

    def forward(self, v: PyTree) -> Array:
        """The product `A v`."""
        (product,) = needs(self.system, "dual", "product")
        return product(cast(v, self.system.like)).astype(self.grams.dtype)

    def back(self, u: Array) -> PyTree:
        """The product `A^T u`."""
        (transpose,) = needs(self.system, "dual", "transpose")
        return widen(self.system, transpose(u))


class _Pencil(NamedTuple):
    """`m S + F` in the words of `dual`; S is None for the identity, where nothing can be held.

    `free` tells where D is m; `over_held` is 1/D where it is not, and 0 where it is.
    """

    m: Array
    F: Array
    S: Array | None
    free: PyTree
    over_held: PyTree


def _dual(system: System) -> Callable[[RightHandSide, PyTree], Solution]:
    """Forms the Gram matrices, and returns the trial that solves with them."""
    *_, gram = needs(system, "dual", "product", "transpose", "gram")
    dtype = working_dtype(system)
    structure = jax.tree.structure(system.like)
    kinds = kinds_of(system)
    masks = jnp.eye(max(kinds) + 1, dtype=dtype)
    if len(masks) == 1:  # one number for all leaves, as one object: their products are one product
        grams = gram(structure.unflatten([masks[0, 0]] * len(kinds)))[None].astype(dtype)
    else:
        grams = jax.vmap(gram)(structure.unflatten([masks[kind] for kind in kinds])).astype(dtype)
    return functools.partial(_dual_trial, _Rows(system, kinds, grams))


def _dual_trial(rows: _Rows, rhs: RightHandSide, damping: PyTree) -> Solution:
    """The step of one damping."""
    system = rows.system
    rhs = require_matching(system, rhs, damping)
    s, h, *_ = rhs
    if s is None:
        raise TypeError("dual: expected s in the right-hand side, got None; try zeros")
    shift = shift_of(system, damping)
    pencil = _pencil(rows, shift, damping)
    columns = [s]
    if h is not None:
        columns.append(
            rows.forward(jax.tree.map(lambda f, x: jnp.where(f, x, 0.0), pencil.free, h))
        )
        if pencil.S is not None:
            columns[0] = s - rows.forward(optax.tree.mul(pencil.over_held, h))
    solved = ladder(pencil.F, jnp.stack(columns, axis=1), pencil.m, pencil.S, dtype=system.solve)
    d, Ad = _free_step(rows, pencil, solved, h)
    if pencil.S is not None:
        d, Ad = _with_held_step(rows, pencil, solved, h, d, Ad - (s - columns[0]))

    # A d is known, so that neither the slope nor the curvature along d needs a product with A.
    slope = inner(s, Ad)
    imbalance = optax.tree.add(rows.back(Ad + s), optax.tree.mul(shift, d))
    if h is not None:
        slope = slope + inner(h, d)
        imbalance = optax.tree.add(imbalance, h)
    return conclude(
        system,
        d,
        slope=slope,
        curvature_along=inner(Ad, Ad),
        residual=optax.tree.norm(imbalance),
        scale=optax.tree.norm(gradient(system, rhs)),
        counts=solved.counts,
    )


def _pencil(rows: _Rows, shift: PyTree, damping: PyTree) -> _Pencil:
    """The pencil of `D = shift`, from the Gram matrices at hand where the damping is one number."""
    m = functools.reduce(
        jnp.minimum, [jnp.min(leaf, initial=jnp.inf) for leaf in jax.tree.leaves(shift)]
    )
    free = jax.tree.map(lambda number: number == m, shift)
    over_held = jax.tree.map(  # the division is safe on both sides, for derivatives see both
        lambda number, is_free: jnp.where(is_free, 0.0, 1 / jnp.where(is_free, 1.0, number)),
        shift,
        free,
    )
    dtype = rows.grams.dtype
    pairs = jax.tree.map(lambda *pair: jnp.stack([x.astype(dtype) for x in pair]), free, over_held)
    scales = jax.tree.leaves(pairs)
    if not is_number(damping) or any(scale.ndim > 1 for scale in scales):
        (gram,) = needs(rows.system, "dual", "gram")
        F, held = jax.vmap(gram)(pairs).astype(dtype)
    elif len(rows.grams) == 1:
        return _Pencil(m, rows.grams[0], None, free, over_held)
    else:
        first_leaves = map(rows.kinds.index, range(len(rows.grams)))
        weights = jnp.stack([scales[leaf] for leaf in first_leaves], axis=1)
        F, held = jnp.tensordot(weights, rows.grams, 1, precision=HIGHEST)
    return _Pencil(m, F, jnp.eye(rows.system.rows, dtype=dtype) + held, free, over_held)


def _free_step(
    rows: _Rows, pencil: _Pencil, solved: Rungs, h: PyTree
) -> tuple[PyTree, Float[Array, " rows"]]:
    """`d_f`, on every leaf as if it were free, and `A_f d_f`."""
    m, F, S, *_ = pencil
    x = solved.inverse[:, 0]
    if h is None:
        return optax.tree.scale(-1, rows.back(x)), -_times(F, x)
    c = solved.inverse[:, 1]
    lost = m <= jnp.finfo(F.dtype).eps * jnp.trace(F)
    safe_m = jnp.where(lost, 1.0, m)
    x = x + jnp.where(lost, solved.square[:, 1], 0.0)
    d = jax.tree.map(
        lambda h, back_x, back_c: -back_x - jnp.where(lost, 0.0, (h - back_c) / safe_m),
        h,
        rows.back(x),
        rows.back(c),
    )
    return d, -_times(F, x) - jnp.where(lost, 0.0, _times(S, c))


def _with_held_step(
    rows: _Rows, pencil: _Pencil, solved: Rungs, h: PyTree, d: PyTree, Ad: Array
) -> tuple[PyTree, Float[Array, " rows"]]:
    """The step d with `d_h` where leaves are held; `A d` from what is there without `m x - c`."""
    mx_c = solved.remainder[:, 0]
    if h is not None:
        mx_c = mx_c - solved.inverse[:, 1]
    pull = rows.back(mx_c) if h is None else optax.tree.add(h, rows.back(mx_c))
    d = jax.tree.map(
        lambda is_free, d_f, pull, over_held: jnp.where(is_free, d_f, -pull * over_held),
        pencil.free,
        d,
        pull,
        pencil.over_held,
    )
    return d, Ad - (_times(pencil.S, mx_c) - mx_c)


def _times(matrix: Array | None, vector: Array) -> Array:
    """A product in full precision; None is the identity."""
    return vector if matrix is None else dot(matrix, vector)


def kinds_of(system: System) -> list[int]:
    """For each leaf the number of its penalty, from 0; the same object is the same penalty."""
    structure = jax.tree.structure(system.like)
    if system.penalty is None or is_number(system.penalty):
        return [0] * structure.num_leaves
    penalties = [id(leaf) for leaf in structure.flatten_up_to(system.penalty)]
    distinct = list(dict.fromkeys(penalties))
    return [distinct.index(penalty) for penalty in penalties]
