"""Preconditioners: cheap inverses near that of C + D, for conjugate gradients to go through.

    P^-1 r is near (C + D)^-1 r

`jacobi` knows the diagonal of C; `nystrom` its products with a few random directions; `kronecker`
what the owner of the system knows of it, the factors of a network's layers. All of them are
symmetric and positive definite whatever D is, and hold the whole D.
"""

import functools
from collections.abc import Callable
from numbers import Integral

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from fnn.interned import interned
from fnn.products import dot
from fnn.solvers.eigen import diagonalize
from fnn.solvers.ladder import positive
from fnn.solvers.system import System, cast, entries, flat_shift, needs, widen, working_dtype

Preconditioner = Callable[[System, PyTree], Callable[[PyTree], PyTree]]


def jacobi(
    system: System, scaling: PyTree, power: Array | float = 1.0
) -> Callable[[PyTree], PyTree]:
    """The preconditioner `1 / (diag C + D)^power`; 1 where that diagonal is not positive.

    Args:
        system: A system with `diagonal`.
        scaling: D, a tree.
        power: Martens (2010) takes 0.75.

    Returns:
        The map from a residual to the preconditioned one.

    >>> from fnn.solvers import from_rows
    >>> system = from_rows(jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2))
    >>> jacobi(system, jnp.zeros(2))(jnp.array([3.0, 4.0])).tolist()
    [3.0, 1.0]
    """
    (diagonal,) = needs(system, "jacobi", "diagonal")
    weights = optax.tree.add(widen(system, diagonal()), scaling)
    weights = jax.tree.map(lambda w: (jnp.where(w > 0, w, 1.0) ** power).astype(w.dtype), weights)
    return lambda residual: optax.tree.div(residual, weights)


def kronecker(system: System, scaling: PyTree) -> Callable[[PyTree], PyTree]:
    """The preconditioner that the owner of the system knows: of a network, its Kronecker factors.

    Args:
        system: A system with `kronecker`, as `curvature.gauss_newton_system` makes it.
        scaling: D, a tree.

    Returns:
        The map from a residual to the preconditioned one.

    >>> from fnn.solvers import from_rows
    >>> system = from_rows(jnp.eye(2), jnp.zeros(2))._replace(kronecker=lambda D: lambda r: r / D)
    >>> kronecker(system, jnp.array(2.0))(jnp.array([3.0, 4.0])).tolist()
    [1.5, 2.0]
    """
    (inverse,) = needs(system, "kronecker", "kronecker")
    return inverse(scaling)


@interned
def nystrom(rank: int, seed: int = 0) -> Preconditioner:
    """The preconditioner `(N + D)^-1`, N being C as `rank` random directions W see it.

        N = C W (W^T C W)^+ W^T C

    N is at most C, and exact where the rank of C is no more than `rank`. So the eigenvalues of the
    preconditioned system lie between 1 and `1 + |C - N| / min D`: on average below 28 where `rank`
    is more than 3 times the effective dimension, the sum of `c / (c + D)` over the eigenvalues c
    of C, whatever the damping.

    It costs `rank` products with C, made at once, an eigendecomposition of that size for each
    damping, and two products with (rank, P) in every iteration.

    Args:
        rank: Number of directions, >= 1; P of them and more are exact.
        seed: Of the directions, which are the same in every step.

    Returns:
        A preconditioner for `conjugate_gradients` and `descend`.

    Raises:
        ValueError: If `rank` is less than 1.

    Source:
        Frangella, Tropp and Udell (2021), "Randomized Nyström preconditioning", algorithm 2.1 and
        section 5, arXiv:2110.02820.

    Differs:
        The source has, in the directions that W does not see, the smallest seen eigenvalue added to
        D; here D alone, which may differ from parameter to parameter. Where D is less than
        `eps^(3/4)` of C's norm it is taken for that. Directions that C does not see are left out,
        for which the source shifts C.

    >>> from fnn.solvers import conjugate_gradients, from_rows, RightHandSide
    >>> system = from_rows(jnp.diag(jnp.logspace(0, 3, 9)[:4]), jnp.zeros(4))
    >>> solver = conjugate_gradients(50, 1e-8, nystrom(4))
    >>> int(solver.solve(system, RightHandSide(jnp.ones(4)), 0.1).counts.iterations)
    1
    """
    if not isinstance(rank, Integral) or rank < 1:
        raise ValueError(f"nystrom: expected rank to be an integer >= 1, got {rank!r}; try 32")
    return functools.partial(_nystrom, rank, seed)


def _nystrom(rank: int, seed: int, system: System, scaling: PyTree) -> Callable[[PyTree], PyTree]:
    """The map from a residual to the preconditioned one, by the formula of Woodbury."""
    root = _root(system, rank, seed)
    size = jnp.max(jnp.sum(root**2, axis=1), initial=0)  # near the largest eigenvalue
    shift = flat_shift(system._replace(penalty=None), scaling)
    # In what C sees 1 / D cancels, but for a rounding of it: this keeps that below a percent or so.
    least = jnp.finfo(root.dtype).eps ** 0.75
    shift = jnp.maximum(shift, jnp.where(size > 0, least * size, 1.0))
    values, vectors, _ = diagonalize(dot(root / shift, root.T))
    turned = dot(vectors.T, root)
    weights = 1 / (1 + jnp.maximum(values, 0))

    def improve(residual: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(residual)
        image = flat / shift
        return unravel(image - dot(weights * dot(turned, image), turned) / shift)

    return improve


def _root(system: System, rank: int, seed: int) -> Float[Array, "rank P"]:
    """F with `N = F^T F`; rows of zeros for directions that C does not see."""
    size, dtype = entries(system.like), working_dtype(system)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), system.like)
    _, unravel = ravel_pytree(zeros)

    def product(flat: Array) -> Array:
        image = system.multiply(cast(unravel(flat), system.like))
        return ravel_pytree(widen(system, image))[0]

    rank = min(rank, size)
    directions = jax.random.normal(jax.random.key(seed), (rank, size), dtype)
    images = jax.vmap(product)(directions)
    square = dot(directions, images.T)
    values, vectors, finite = diagonalize((square + square.T) / 2)
    cut = rank * jnp.finfo(dtype).eps * jnp.max(values, initial=0)
    inverse = positive(values, cut)
    root = dot((vectors * jnp.sqrt(inverse)).T, images)
    return jnp.where(finite, root, 0.0)
