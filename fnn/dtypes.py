"""Dtypes: what numbers of several become, whatever JAX is told to do about it."""

from typing import Any

import jax
import jax.numpy as jnp


def widest(*numbers: Any) -> jnp.dtype:
    """The dtype that holds all of these: JAX's promotion, which was asked for even if it is strict.

    Args:
        *numbers: arrays, numbers and dtypes.

    Returns:
        Their dtype under standard promotion.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     print(widest(jnp.bfloat16, jnp.ones(2, "float32")))
        float32
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*numbers)
