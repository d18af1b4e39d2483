"""A source of fewer rows, whose A^T A is in the mean that of all rows.

The B of an example becomes B E, where E has `samples` columns of random signs over sqrt(samples).
"""

import math
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, UInt32

from fnn import losses
from fnn.curvature.rows import Source, root_of


class _SketchedTarget(NamedTuple):
    """The target of an example, and words whose bits are its signs."""

    target: PyTree
    words: UInt32[Array, " w"]


def sketch(source: Source, key: Array, samples: int) -> Source:
    """A source with the same curvature in the mean and few rows of each example."""
    rows, block = source.shape[-1], source.block
    if rows <= samples:
        return source

    def factor(outputs: PyTree, target: _SketchedTarget) -> tuple[Array, Array]:
        times, slopes = root_of(block)(outputs, target.target)
        signs = _signs(target.words, (*slopes.shape, samples), slopes.dtype) / samples**0.5
        fewer = jax.vmap(times, in_axes=-1, out_axes=-1)(signs)
        return fewer.reshape(-1, samples), jnp.zeros(samples, slopes.dtype)

    # One draw for all examples: a key for each of them takes a tenth of a small step longer.
    words = jax.random.bits(key, (block.count, -(-rows * samples // 32)), jnp.uint32)
    sketched = replace(
        block,
        targets=_SketchedTarget(block.targets, words),
        loss=losses.with_curvature(no_loss, factor, complete=True),
    )
    return source._replace(
        term=source.term._replace(block=sketched),
        parts=sketched.chunks(),
        shape=(*source.shape[:-1], samples),
    )


def _signs(words: UInt32[Array, " w"], shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """An array of 1 and -1, one for each of the words' first bits."""
    bits = (words[:, None] >> jnp.arange(32, dtype=words.dtype)[None]) & 1
    return 1 - 2 * bits.ravel()[: math.prod(shape)].reshape(shape).astype(dtype)


def no_loss(outputs: PyTree, target: PyTree) -> Array:
    """Zero, for a block that is asked for its curvature alone."""
    del outputs, target
    return jnp.zeros(())
