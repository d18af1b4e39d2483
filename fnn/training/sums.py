"""Sums over the bits of arrays, by which damage is noticed."""

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def sums_of(fixed: Mapping[str, Array], growing: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A sum for each array; arrays whose shapes are fixed are summed on their devices."""
    sums = {name: int(total) for name, total in _sums_of_words(dict(fixed)).items()}
    return sums | {name: zlib.crc32(a.view(np.uint8).data) for name, a in growing.items()}


@jax.jit
def _sums_of_words(arrays):
    return jax.tree.map(_sum_of_words, arrays)


def _sum_of_words(a: Array) -> Array:
    """The sum of words times odd numbers, modulo 2^32, which shows every bit that flips."""
    if jnp.iscomplexobj(a):
        a = jnp.stack([a.real, a.imag], -1)
    if a.dtype == bool:
        a = a.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * min(a.dtype.itemsize, 4)}"))
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)
