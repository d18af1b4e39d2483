"""Work that is seldom due, and is not done in vain in the lanes of a `vmap`.

Under `vmap` a `jax.lax.cond` becomes a selection, and both of its branches are run in every step.
A `while_loop` of one trip or none is skipped where no lane needs it, but copies all that it reads.
Here the condition itself is shared: the branch is run where it is due in any lane.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree


def where_due(due: Bool[Array, ""], made: Callable[[], PyTree], kept: PyTree) -> PyTree:
    """`made()` where it is due, `kept` elsewhere; run where it is due in any lane.

    Args:
        due: whether there is something to do.
        made: what does it.
        kept: a tree of the structure, shapes and dtypes that `made` returns.

    Returns:
        One of the two.

    Example:
        >>> print(where_due(jnp.array(True), lambda: jnp.ones(2), jnp.zeros(2)))
        [1. 1.]
    """
    found = jax.lax.cond(in_any_lane(due), made, lambda: kept)
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), found, kept)


@custom_vmap
def in_any_lane(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether a condition holds in any lane: one answer for all of them.

    Args:
        flag: the condition in this lane.

    Returns:
        Itself without `vmap`.
    """
    return flag


@in_any_lane.def_vmap
def _any(_: int, in_batched: list, flag: Array) -> tuple[Array, bool]:
    return in_any_lane(jnp.any(flag) if in_batched[0] else flag), False
