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


def where_due(due: Bool[Array, ""], make: Callable[[], PyTree], otherwise: PyTree) -> PyTree:
    """`make()` where it is due, `otherwise` elsewhere; it runs where it is due in any lane."""
    result = jax.lax.cond(in_any_lane(due), make, lambda: otherwise)
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), result, otherwise)


@custom_vmap
def in_any_lane(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """A flag of one number that is true in every lane of a `vmap` where it is true in any."""
    return flag


@in_any_lane.def_vmap
def _any(_: int, in_batched: list, flag: Array) -> tuple[Array, bool]:
    return in_any_lane(jnp.any(flag) if in_batched[0] else flag), False
