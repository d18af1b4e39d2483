"""Sums over the bits of arrays, by which damage is noticed, and other arrays of the same shape.

They are taken on the devices, whose shares of an array add up to the same sum on any number of
devices and processes; no array travels. Digests of 100 MB take a third of a second on two busy
cores.
"""

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


def digests_of(arrays: Mapping[str, Array]) -> dict[str, str]:
    """A digest of each array, of 64 bits, by which its values are known again."""
    pairs = _digests_of_words(dict(arrays))
    return {name: "".join(f"{int(word):08x}" for word in pair) for name, pair in pairs.items()}


@jax.jit
def _sums_of_words(arrays):
    return jax.tree.map(_sum_of_words, arrays)


@jax.jit
def _digests_of_words(arrays):
    return jax.tree.map(_digest_of_words, arrays)


def _sum_of_words(a: Array) -> Array:
    """The sum of words times odd numbers, modulo 2^32, which shows every bit that flips."""
    words, index = _words(a)
    return jnp.sum(words * (2 * index + 1), dtype=jnp.uint32)


def _digest_of_words(a: Array) -> tuple[Array, ...]:
    """Two sums of words that were scrambled with their places."""
    # The sum above stays the same where an even number of signs change, as in -a.
    words, index = _words(a)
    places = (_scrambled(index + jnp.uint32(seed)) for seed in (0x9E3779B9, 0x7F4A7C15))
    return tuple(jnp.sum(_scrambled(words ^ place), dtype=jnp.uint32) for place in places)


def _scrambled(word: Array) -> Array:
    """A word whose bits each depend on all bits of another: MurmurHash3's last step."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> shift)) * jnp.uint32(factor)
    return word ^ (word >> 16)


def _words(a: Array) -> tuple[Array, Array]:
    """The bits of an array in words of at most 32 bits, and the place of each word."""
    if jnp.iscomplexobj(a):
        a = jnp.stack([a.real, a.imag], -1)
    if a.dtype == bool or (jnp.issubdtype(a.dtype, jnp.integer) and jnp.iinfo(a.dtype).bits < 8):
        a = a.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * min(a.dtype.itemsize, 4)}"))
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return bits.astype(jnp.uint32), index
