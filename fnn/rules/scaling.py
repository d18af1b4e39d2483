"""Scalings: in which units Levenberg-Marquardt measures the length of a step.

The step solves `(C + damping diag(scale)) d = -g`. With `identity` all parameters count alike: the
damping has units loss / params^2, the path does not change under rotations, and the system keeps
its factored form. `marquardt` and `more` take the scale from the diagonal of C: the damping is a
pure number and the path does not change when parameters are measured in other units, but the dual
system has no cheap form. They are for few parameters of very different sizes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["Scaling", "identity", "marquardt", "more"]
__dir__ = __all__.copy


class Scaling(NamedTuple):
    """A scaling: a value, hashable.

    Attributes:
        scale: `(diagonal, previous) -> scale`, one array at a time, `previous` being 0 at first;
            None for the identity, which reads no diagonal.
    """

    scale: Callable[[Array, Array], Array] | None


def _latest(diagonal: Array, previous: Array) -> Array:
    del previous
    return diagonal


identity = Scaling(None)
"""Levenberg (1944), doi:10.1090/qam/10666: every parameter counts alike."""

marquardt = Scaling(_latest)
"""Marquardt (1963), doi:10.1137/0111030: the diagonal of the curvature."""

more = Scaling(jnp.maximum)
"""Moré (1978), doi:10.1007/BFb0067700, MINPACK's: the largest diagonal seen so far."""
