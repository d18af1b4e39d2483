"""A cheap inverse near that of the Gauss-Newton matrix and a damping, by Kronecker factors.

A leaf with factors `A (x) D` (see `structure`) has, for the damping m, the inverse of

    (A + p r) (x) (D + r / p),        r = sqrt(m),    p = sqrt(mean eigenvalue of A / of D)

(Martens and Grosse, 2015, arXiv:1503.05671, section 6.3), which is that of `A (x) D + m` but for
cross terms; where A or D is a number there are none. Other leaves have the inverse of their
diagonal. It is no step: conjugate gradients go through it to the exact one, and so D may come from
some of the examples.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, PyTree

from fnn.curvature.rows import Stack
from fnn.curvature.structure import Factors, Layout, common_structure, factors_and_diagonals
from fnn.products import dot


def near_inverse(
    params: PyTree, stacks: Sequence[Stack], memory_budget: int, shift: PyTree
) -> Callable[[PyTree], PyTree]:
    """`v -> about (A^T A + shift)^-1 v`; beside factors a shift that is an array is its mean."""
    layout = Layout.of(common_structure(params, stacks), params, stacks)
    factors, diagonals = factors_and_diagonals(layout, stacks, memory_budget, few=True)
    shifts = dict(zip(layout.paths, jax.tree.leaves(shift), strict=True))
    inverses = {path: _inverses(each, jnp.mean(shifts[path])) for path, each in factors.items()}

    def times(path: str, part: Array) -> Array:
        if path in inverses:
            inputs, outputs = inverses[path]
            return dot(inputs.astype(part.dtype), part, outputs.astype(part.dtype))
        weights = diagonals[path] + shifts[path]
        return part / jnp.where(weights > 0, weights, 1).astype(part.dtype)

    def improve(v: PyTree) -> PyTree:
        return layout.unflatten({p: times(p, part) for p, part in layout.matrices(v).items()})

    return improve


def _inverses(factors: Factors, shift: Array) -> Factors:
    """The inverses of both factors, damped."""
    means = [jnp.mean(jnp.diagonal(side, axis1=1, axis2=2), axis=1) for side in factors]
    means = [jnp.where(mean > 0, mean, 1) for mean in means]
    # Where there is no damping the rounding of the factors is taken for it.
    least = jnp.finfo(means[0].dtype).eps * means[0] * means[1]
    shift = jnp.maximum(shift.astype(least.dtype), least)
    inputs, outputs = factors
    if inputs.shape[-1] == 1:  # a bias: a D + m is no product, and needs none
        return Factors(jnp.ones_like(inputs), _inverse_of_each(inputs * outputs, shift))
    if outputs.shape[-1] == 1:
        return Factors(_inverse_of_each(inputs * outputs, shift), jnp.ones_like(outputs))
    of_a, of_d = share_out(means[0], means[1], shift)
    return Factors(_inverse_of_each(inputs, of_a), _inverse_of_each(outputs, of_d))


def share_out(mean_a: Array, mean_d: Array, damping: Array) -> tuple[Array, Array]:
    """The parts of a damping for factors of these mean eigenvalues, p r and r / p (above)."""
    are_positive = (mean_a > 0) & (mean_d > 0)
    p = jnp.sqrt(jnp.where(are_positive, mean_a, 1) / jnp.where(are_positive, mean_d, 1))
    root = jnp.sqrt(damping)
    return p * root, root / p


def _inverse_of_each(factor: Float[Array, "b n n"], damping: Float[Array, " b"]) -> Array:
    """The inverses of matrices with a damping, (b, n, n)."""
    return jax.lax.map(_inverse, (factor, damping))


@sequential_vmap  # batched factorizations deadlock on a CPU, see `solvers.ladder`
def _inverse(pair: tuple[Float[Array, "n n"], Float[Array, ""]]) -> Float[Array, "n n"]:
    """The inverse of a matrix with a damping."""
    factor, damping = pair
    unit = jnp.eye(len(factor), dtype=factor.dtype)
    if len(factor) == 1:
        return 1 / (factor + damping)
    return cho_solve(cho_factor(factor + damping * unit, lower=True), unit)
