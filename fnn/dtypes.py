"""Dtypes: what numbers of several become, whatever JAX is told to do about it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def widest(*numbers: Any) -> jnp.dtype:
    """The dtype that holds all of these by standard promotion, even where JAX's is strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*numbers)


def wide(x: Any) -> Array:
    """An array in at least single precision; what is no floating-point number stays as it is.

    Args:
        x: an array or a number.

    Returns:
        The array.

    Example:
        >>> import jax.numpy as jnp
        >>> wide(jnp.ones(2, jnp.bfloat16)).dtype, wide(jnp.arange(2, dtype="int8")).dtype
        (dtype('float32'), dtype('int8'))
    """
    x = jnp.asarray(x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(widest(x.dtype, jnp.float32)) if floating else x
