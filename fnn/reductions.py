"""One number from those of many leaves, in programs that stay small.

XLA copies a chain of scalar additions to every leaf that reads its end. A program in which all
leaves read one number of all leaves so grows with the square of their count: 100 leaves that are
kept where all are finite took 4.9 s to compile, and 0.2 s as below, in which nothing is copied.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool

_FEW = 16  # leaves, of which a chain takes as long to compile and runs in one loop with its readers
_SMALL = 4096  # numbers, over which a loop runs in less time than a hundredth of its compiling


def packed(leaves: Sequence[Array]) -> list[Array]:
    """The same numbers in fewer arrays: of many leaves, small ones of a dtype are one vector."""
    # A loop takes XLA ten milliseconds: those over 100 leaves were a third of a step's compiling.
    if len(leaves) <= _FEW:
        return list(leaves)
    large, small = [], {}
    for leaf in leaves:
        (small.setdefault(leaf.dtype, []) if leaf.size <= _SMALL else large).append(leaf)
    return large + [jnp.concatenate(list(map(jnp.ravel, alike))) for alike in small.values()]


def total(numbers: Sequence[Array]) -> Array:
    """The sum of at least one number, or array of one shape."""
    if len(numbers) <= _FEW:
        return functools.reduce(jnp.add, numbers)
    # XLA makes a chain of the sum of a stack, too, but not of its running sums.
    return jnp.cumsum(jnp.stack(numbers), axis=0)[-1]


def all_of(flags: Sequence[Bool[Array, ""]]) -> Bool[Array, ""]:
    """Whether all flags are true; of none they are."""
    if len(flags) <= _FEW:
        return functools.reduce(jnp.logical_and, flags, jnp.ones((), bool))
    return total([flag.astype(jnp.int32) for flag in flags]) == len(flags)
