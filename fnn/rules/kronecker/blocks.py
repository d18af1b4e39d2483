"""What K-FAC and EKFAC remember of a leaf: running factors, their eigenvectors, the curvature.

A *measure* says what the curvature along the eigenvectors is; it is all that the two differ in.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, PyTree

from fnn import solvers
from fnn.curvature import Blocks, Factors, Structure

_HIGHEST = jax.lax.Precision.HIGHEST


class Block(NamedTuple):
    """What is remembered of a leaf with Kronecker factors.

    Attributes:
        factors: A and D, means over the batches.
        basis: The eigenvectors that they had at the last refresh.
        curvature: Along them. Of `kfac` the eigenvalues at the last refresh, (b, i) and (b, o); of
            `ekfac` the moments, means over the batches, (b, i, o).
    """

    factors: Factors
    basis: Factors
    curvature: Any


class Measure(NamedTuple):
    """What the curvature of a block along its eigenvectors is.

    Attributes:
        zeros: `(b, i, o), dtype -> curvature` before the first batch.
        refreshed: `block, basis, eigenvalues -> curvature` along new eigenvectors.
        inverse: `curvature, damping -> (b, i, o)`.
        moments: Whether it is a mean of moments, measured in every step.
    """

    zeros: Callable[[tuple[int, int, int], Any], Any]
    refreshed: Callable[[Block, Factors, tuple[Array, Array]], Any]
    inverse: Callable[[Any, Array], Float[Array, "b i o"]]
    moments: bool


class Mean(NamedTuple):
    """A running mean over batches.

    Attributes:
        weight: Of the present batch.
        is_finite: Whether it counts; a batch whose curvature is not finite leaves no trace.
    """

    weight: Float[Array, ""]
    is_finite: Bool[Array, ""]

    def with_batch(self, mean: PyTree, batch: PyTree) -> PyTree:
        """The mean with the present batch in it."""

        def leaf_with_batch(old: Array, new: Array) -> Array:
            change = self.weight * (new - old).astype(self.weight.dtype)
            return jnp.where(self.is_finite, old + change.astype(old.dtype), old)

        return jax.tree.map(leaf_with_batch, mean, batch)


def first_blocks(
    measure: Measure, structure: Structure, dtype: Any
) -> tuple[dict[str, Block], dict[str, Array]]:
    """Blocks and diagonals before the first batch, by the paths of their leaves."""
    blocks, diagonals = {}, {}
    for path, shape, matrix in structure.leaves:
        if matrix is None:
            diagonals[path] = jnp.zeros(shape, dtype)
            continue
        b, *sizes = matrix
        zeros = (jnp.zeros((b, n, n), dtype) for n in sizes)
        basis = (jnp.tile(jnp.eye(n, dtype=dtype), (b, 1, 1)) for n in sizes)
        blocks[path] = Block(Factors(*zeros), Factors(*basis), measure.zeros(matrix, dtype))
    return blocks, diagonals


def with_factors(
    blocks: dict[str, Block], mean: Mean, factors: dict[str, Factors]
) -> dict[str, Block]:
    """The blocks with a batch's factors in their means."""
    return {
        path: blocks[path]._replace(factors=mean.with_batch(blocks[path].factors, new))
        for path, new in factors.items()
    }


def with_moments(
    blocks: dict[str, Block], mean: Mean, moments: dict[str, Array]
) -> dict[str, Block]:
    """The blocks with a batch's moments in their means."""
    return {
        path: block._replace(curvature=mean.with_batch(block.curvature, moments[path]))
        for path, block in blocks.items()
    }


@functools.cache
def refreshing(measure: Measure) -> Callable[[Array, dict[str, Block]], dict[str, Block]]:
    """New eigenvectors where they are due; in the lanes of a vmap one at a time (see `ladder`)."""

    @jax.jit
    @sequential_vmap
    def refreshed(due: Array, blocks: dict[str, Block]) -> dict[str, Block]:
        return jax.lax.cond(due, functools.partial(_all_anew, measure), lambda same: same, blocks)

    return refreshed


def _all_anew(measure: Measure, blocks: dict[str, Block]) -> dict[str, Block]:
    """All blocks along their factors' present eigenvectors."""
    return {path: _anew(measure, block) for path, block in blocks.items()}


def _anew(measure: Measure, block: Block) -> Block:
    """The block along its factors' present eigenvectors; as it was where they are not finite."""
    (inputs, u), (outputs, v) = map(eigen, block.factors)
    basis = Factors(u, v)
    curvature = measure.refreshed(block, basis, (inputs, outputs))
    is_finite = solvers.all_finite((basis, curvature))
    new = block._replace(basis=basis, curvature=curvature)
    return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, block)


def eigen(factor: Float[Array, "b n n"]) -> tuple[Float[Array, "b n"], Float[Array, "b n n"]]:
    """Eigenvalues, at least 0, and eigenvectors of every factor."""
    if factor.shape[-1] == 1:
        return factor[..., 0], jnp.ones_like(factor)
    values, vectors = jax.lax.map(lambda matrix: tuple(jnp.linalg.eigh(matrix)), factor)
    return jnp.maximum(values, 0), vectors


def steps_apart(
    measure: Measure,
    sampled: Blocks,
    blocks: dict[str, Block],
    diagonals: dict[str, Array],
    grad: PyTree,
    damping: Array,
) -> PyTree:
    """The step of every leaf by itself."""
    steps = {}
    for path, g in sampled.matrices(grad).items():
        shift = damping + sampled.penalty[path]
        if path in diagonals:
            steps[path] = -g * inverse(diagonals[path], shift)
        else:
            _, (u, v), curvature = blocks[path]
            steps[path] = -times(u, measure.inverse(curvature, shift) * times(u.mT, g, v), v.mT)
    return sampled.tree(steps)


def largest_norm(sampled: Blocks) -> Array:
    """The norm of the largest block, which rotations do not change; 1 where there is none."""
    norms = [jnp.max(diagonal, initial=0) for diagonal in sampled.diagonals.values()]
    for factors in sampled.factors.values():
        inputs, outputs = (jnp.linalg.norm(factor, axis=(1, 2)) for factor in factors)
        norms.append(jnp.max(inputs * outputs))
    norm = functools.reduce(jnp.maximum, norms)
    return jnp.where(norm > 0, norm, 1)


def inverse(curvature: Array, damping: Array) -> Array:
    """1 / (curvature + damping), a pseudo-inverse: 0 where that is 0 to rounding."""
    total = curvature + damping
    rounding = max(total.shape, default=1) * jnp.finfo(total.dtype).eps
    return solvers.positive(total, rounding * jnp.max(total, initial=0))


def times(*factors: Array) -> Array:
    """A product of matrices in full precision."""
    return functools.reduce(functools.partial(jnp.matmul, precision=_HIGHEST), factors)
