"""A value function with fewer rows, whose A^T A is in the mean that of all rows.

The B of an example becomes B E, where E has `samples` columns of random signs over sqrt(samples).
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from fnn import losses
from fnn.curvature.rows import blocks_of
from fnn.curvature.terms import keys_of_blocks
from fnn.objective import Block, ValueFunction
from fnn.products import HIGHEST


class _SketchedTarget(NamedTuple):
    """The target of an example, and the key of its signs; None asks for all of its rows."""

    target: PyTree
    key: Array | None


def sketch(value_fn: ValueFunction, key: Array, samples: int) -> ValueFunction:
    """A value function with the same curvature in the mean and few rows of each example."""
    keys = iter(keys_of_blocks(value_fn, key))
    return value_fn.map_blocks(lambda block: _sketched_block(block, next(keys), samples))


def with_all_rows(block: Block) -> Block:
    """A block, sketched or not, with all of its rows."""
    if not isinstance(block.targets, _SketchedTarget):
        return block
    return replace(block, targets=block.targets._replace(key=None))


def _sketched_block(block: Block, key: Array, samples: int) -> Block:
    """A block whose loss has the curvature of a sketch, and no value."""

    def factor(outputs: PyTree, target: _SketchedTarget) -> tuple[Array, Array]:
        columns, slopes = blocks_of(block)(outputs, target.target)
        if target.key is None or slopes.size <= samples:
            return columns, slopes
        signs = jax.random.rademacher(target.key, (slopes.size, samples), columns.dtype)
        signs = signs.reshape(*slopes.shape, samples)
        fewer = jnp.einsum("gkr,grs->gks", columns, signs, precision=HIGHEST) / samples**0.5
        return fewer.reshape(-1, samples), jnp.zeros(samples, columns.dtype)

    targets = _SketchedTarget(block.targets, jax.random.split(key, block.count))
    loss = losses.with_curvature(no_loss, factor, complete=True)
    return replace(block, targets=targets, loss=loss)


def no_loss(outputs: PyTree, target: PyTree) -> Array:
    """Zero, for a block that is asked for its curvature alone."""
    del outputs, target
    return jnp.zeros(())
