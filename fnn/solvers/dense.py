"""Dense solvers: among the parameters (primal) and among the rows (dual)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from fnn.solvers.ladder import Spectrum, ladder, positive
from fnn.solvers.system import (
    RightHandSide,
    Solution,
    Solver,
    System,
    cast,
    check,
    conclude,
    diagonal,
    gradient,
    inner,
    is_number,
    needs,
    widen,
    working_dtype,
)

_HIGHEST = jax.lax.Precision.HIGHEST


@functools.cache
def primal(spectrum: Spectrum = positive) -> Solver:
    """Cholesky among the P parameters: `(C + D) d = -g`.

    Forms C once, P^2 numbers; every trial costs a factorization, P^3 / 3 flops. Any D is welcome,
    Marquardt's as well. For few parameters and many rows, and for dense Hessians.

    Args:
        spectrum: How the eigenvalues of a matrix that Cholesky cannot factor are inverted:
            `positive` cuts off the negative ones; `signed` keeps them, and the step leads to a
            stationary point of the model, minimum or not, for the model to promise what it may.

    Returns:
        The solver.

    >>> from fnn.solvers import RightHandSide, from_rows
    >>> system = from_rows(jnp.array([[2.0]]), jnp.zeros(1))
    >>> round(float(primal().solve(system, RightHandSide(jnp.array([3.0])), 2.0).step[0]), 6)
    -1.0
    """
    return Solver("primal", functools.partial(_primal, spectrum))


def _primal(spectrum: Spectrum, system: System) -> Callable[[RightHandSide, PyTree], Solution]:
    (normal,) = needs(system, "primal", "normal")
    curvature = normal().astype(working_dtype(system))

    def trial(rhs: RightHandSide, damping: PyTree) -> Solution:
        flat, unravel = ravel_pytree(gradient(system, check(system, rhs, damping)))
        scaling, _ = ravel_pytree(
            jax.tree.map(
                lambda number, leaf: jnp.broadcast_to(number, leaf.shape),
                diagonal(system, damping),
                system.like,
            )
        )
        found = ladder(
            curvature + jnp.diag(scaling), -flat[:, None], spectrum=spectrum, dtype=system.solve
        )
        step = found.inverse[:, 0]
        bent = jnp.matmul(curvature, step, precision=_HIGHEST)
        return conclude(
            system,
            unravel(step),
            slope=inner(flat, step),
            bend=inner(step, bent),
            residual=jnp.linalg.norm(bent + scaling * step + flat),
            scale=jnp.linalg.norm(flat),
            counts=found.counts,
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


def _dual(system: System) -> Callable[[RightHandSide, PyTree], Solution]:
    product, transpose, gram = needs(system, "dual", "product", "transpose", "gram")
    dtype = working_dtype(system)
    structure = jax.tree.structure(system.like)
    kinds = kinds_of(system)
    masks = jnp.eye(max(kinds) + 1, dtype=dtype)
    if len(masks) == 1:  # one number for all leaves, as one object: their products are one product
        grams = gram(structure.unflatten([masks[0, 0]] * len(kinds)))[None].astype(dtype)
    else:
        grams = jax.vmap(gram)(structure.unflatten([masks[kind] for kind in kinds])).astype(dtype)

    def forward(tree: PyTree) -> Array:
        return product(cast(tree, system.like)).astype(dtype)

    def back(u: Array) -> PyTree:
        return widen(system, transpose(u))

    # F and S; S is None where nothing can be held.
    def pencil(free: PyTree, held: PyTree, damping: PyTree) -> tuple[Array, Array | None]:
        pairs = jax.tree.map(lambda *pair: jnp.stack([x.astype(dtype) for x in pair]), free, held)
        scales = jax.tree.leaves(pairs)
        if is_number(damping) and all(scale.ndim == 1 for scale in scales):
            if len(grams) == 1:
                return grams[0], None
            weights = jnp.stack([scales[kinds.index(kind)] for kind in range(len(grams))], axis=1)
            reached, fixed = jnp.tensordot(weights, grams, 1, precision=_HIGHEST)
        else:
            reached, fixed = jax.vmap(gram)(pairs).astype(dtype)
        return reached, jnp.eye(system.rows, dtype=dtype) + fixed

    def trial(rhs: RightHandSide, damping: PyTree) -> Solution:
        rhs = check(system, rhs, damping)
        s, h, _ = rhs
        if s is None:
            raise TypeError("dual: expected s in the right-hand side, got None; try zeros")
        scaling = diagonal(system, damping)
        floor = functools.reduce(
            jnp.minimum, [jnp.min(leaf, initial=jnp.inf) for leaf in jax.tree.leaves(scaling)]
        )
        free = jax.tree.map(lambda number: number == floor, scaling)
        held = jax.tree.map(  # the division is safe on both sides, for derivatives see both
            lambda number, is_free: jnp.where(is_free, 0.0, 1 / jnp.where(is_free, 1.0, number)),
            scaling,
            free,
        )
        matrix, metric = pencil(free, held, damping)

        def times(left: Array | None, right: Array) -> Array:
            return right if left is None else jnp.matmul(left, right, precision=_HIGHEST)

        right = s
        columns = []
        if h is not None:
            columns = [forward(jax.tree.map(lambda f, leaf: jnp.where(f, leaf, 0.0), free, h))]
            if metric is not None:
                right = s - forward(optax.tree.mul(held, h))
        columns = jnp.stack([right, *columns], axis=1)
        found = ladder(matrix, columns, floor, metric, dtype=system.solve)

        x, rest = found.inverse[:, 0], found.remainder[:, 0]
        if h is None:
            step = optax.tree.scale(-1, back(x))
            image = -times(matrix, x)
        else:
            c = found.inverse[:, 1]
            rest = rest - c
            lost = floor <= jnp.finfo(dtype).eps * jnp.trace(matrix)
            divisor = jnp.where(lost, 1.0, floor)
            x = x + jnp.where(lost, found.square[:, 1], 0.0)
            step = jax.tree.map(
                lambda leaf, inside, outside: (
                    -inside - jnp.where(lost, 0.0, (leaf - outside) / divisor)
                ),
                h,
                back(x),
                back(c),
            )
            image = -times(matrix, x) - jnp.where(lost, 0.0, times(metric, c))
        if metric is not None:
            moved = back(rest) if h is None else optax.tree.add(h, back(rest))
            step = jax.tree.map(
                lambda f, one, other, number: jnp.where(f, one, -other * number),
                free,
                step,
                moved,
                held,
            )
            image = image - (s - right) - (times(metric, rest) - rest)

        # `image` is A d, so that neither slope nor bend needs a product with A
        slope = inner(s, image)
        left = optax.tree.add(back(image + s), optax.tree.mul(scaling, step))
        if h is not None:
            slope = slope + inner(h, step)
            left = optax.tree.add(left, h)
        return conclude(
            system,
            step,
            slope=slope,
            bend=inner(image, image),
            residual=optax.tree.norm(left),
            scale=optax.tree.norm(gradient(system, rhs)),
            counts=found.counts,
        )

    return trial


def kinds_of(system: System) -> list[int]:
    """For each leaf, which penalty it is under; one object is one penalty.

    Args:
        system: The system.

    Returns:
        Numbers from 0.
    """
    structure = jax.tree.structure(system.like)
    if system.penalty is None or is_number(system.penalty):
        return [0] * structure.num_leaves
    penalties = [id(leaf) for leaf in structure.flatten_up_to(system.penalty)]
    distinct = list(dict.fromkeys(penalties))
    return [distinct.index(penalty) for penalty in penalties]
