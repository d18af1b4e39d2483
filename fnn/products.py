"""Products of matrices in full precision.

A GPU or a TPU rounds the factors of a product to few digits unless it is told not to: enough for a
gradient, and not for a system that is solved with the result.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

HIGHEST = jax.lax.Precision.HIGHEST


def dot(*factors: Array) -> Array:
    """The product, as by `jnp.matmul`, of matrices, vectors or stacks, from left to right."""
    return functools.reduce(functools.partial(jnp.matmul, precision=HIGHEST), factors)
