"""One number from those of many leaves, in programs that stay small.

XLA copies a chain of scalar additions to every leaf that reads its end. A program in which all
leaves read one number of all leaves so grows with the square of their count: 100 leaves that are
kept where all are finite took 4.9 s to compile, and 0.2 s as below, in which nothing is copied.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool

_FEW = 16  # leaves, of which a chain takes as long to compile and runs in one loop with its readers
_SMALL = 4096  # numbers, whose copy into a stack takes some microseconds


def stacked(leaves: Sequence[ArrayLike]) -> list[Array]:
    """Stacks of the leaves: of many, small ones of one shape and dtype are one stack."""
    # XLA takes some milliseconds for a loop: `kfac` on 50 layers compiles in 0.85 of the time.
    few, groups = len(leaves) <= _FEW, {}
    for k, leaf in enumerate(map(jnp.asarray, leaves)):
        alone = few or leaf.size > _SMALL
        groups.setdefault(k if alone else (leaf.shape, leaf.dtype), []).append(leaf)
    return [group[0][None] if len(group) == 1 else jnp.stack(group) for group in groups.values()]


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
