"""Intervals: how many standard errors they reach to each side, by Student's distribution."""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, ndtri
from jaxtyping import Array, PyTree, Scalar

from fnn import devices

HALVINGS = 64
"""Of the logarithm of the number, from a width of 80: to the last digit of float64."""

MANY = 1e4
"""Degrees of freedom above which the distribution is expanded around the normal one, to 1e-9; of
1e9 the incomplete beta function of JAX has six digits."""


def around(center: PyTree, errors: PyTree, level: Scalar | float, freedom: Scalar) -> PyTree:
    """The lower and the upper ends of intervals around numbers of known standard errors."""
    if isinstance(level, int | float) and not 0 < level < 1:
        raise ValueError(f"intervals: expected a level in (0, 1), got {level}; try 0.95")
    reach = reach_of(jnp.asarray(level, freedom.dtype), freedom)

    def end(sign: int) -> PyTree:
        return jax.tree.map(lambda c, e: c + (sign * reach * e).astype(c.dtype), center, errors)

    return end(-1), end(1)


@devices.jit
def reach_of(level: Scalar, freedom: Scalar) -> Array:
    """The number t with P(|T| < t) = level, of a normal T where the freedom is infinite."""
    # JAX has the distribution, as an incomplete beta function, and not its inverse.
    nu = jnp.clip(freedom, 1, MANY)

    def is_within(square: Array) -> Array:
        inside = betainc(0.5, nu / 2, square / (nu + square))
        outside = betainc(nu / 2, 0.5, nu / (nu + square))
        return jnp.where(level < 0.5, inside < level, outside > 1 - level)  # the smaller is exact

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        is_low = is_within(jnp.exp(2 * middle))
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    ends = jnp.full_like(nu, -40), jnp.full_like(nu, 40)
    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, ends)
    z = ndtri((1 + level) / 2)
    nearly_normal = (
        z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    )
    reach = jnp.where(freedom > MANY, nearly_normal, jnp.exp(low))
    return jnp.where(freedom > 0, reach, jnp.inf)
