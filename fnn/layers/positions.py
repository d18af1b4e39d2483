"""Positions of a sequence, added to its features: for attention, which does not see the order."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fnn.layers.layer import (
    Initializer,
    Layer,
    draw,
    require_example,
    require_features,
    require_params,
    require_positive,
    widened,
    without_key,
    without_params,
)

SMALL: Initializer = jax.nn.initializers.normal(0.02)


def sinusoidal_positions(*, longest: float = 1e4) -> Layer:
    """X + sines and cosines of the position, of wavelengths from 2 pi to 2 pi longest.

    Features 2i and 2i + 1 get sin and cos of position / longest^(2i / features).

    Args:
        longest: the slowest wave's length, in units of the fastest's, > 0.

    Shapes: (positions, features) to the same, for any number of positions.

    Returns:
        A layer without parameters.

    Raises:
        ValueError: if `longest` is not positive.

    Source: Vaswani et al. (2017), section 3.5, arXiv:1706.03762.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.sinusoidal_positions().apply((), jnp.zeros((2, 2))).round(2).tolist()
        [[0.0, 1.0], [0.84, 0.54]]
    """
    if not longest > 0:
        raise ValueError(f"sinusoidal_positions: expected longest > 0, got {longest}; try 1e4")

    def apply(_: tuple[()], x: Float[Array, "positions features"]) -> Array:
        require_example("sinusoidal_positions", x, "positions", "features")
        positions, features = x.shape
        dtype = widened(x.dtype)
        number = jnp.arange(features)
        exponent = (2 * (number // 2)).astype(dtype) / features
        rates = jnp.exp(-exponent * jnp.log(jnp.asarray(longest, dtype)))
        angles = jnp.arange(positions).astype(dtype)[:, None] * rates[None]
        waves = jnp.where(number[None] % 2 == 0, jnp.sin(angles), jnp.cos(angles))
        return x + waves.astype(x.dtype)

    return without_params(without_key(apply), "sinusoidal_positions")


def learned_positions(entries: int, *, weight: Initializer = SMALL) -> Layer:
    """X + a row of a table for each position.

    Args:
        entries: rows of the table, > 0: the most positions.
        weight: initializer of the (entries, features) table; by default Gaussian, deviation 0.02.

    Shapes: (positions, features) to the same, positions <= entries.

    Returns:
        A layer with params {"weight"}; its `init` and `apply` raise a ValueError for more
        positions than the table has.

    Source: Gehring et al. (2017), section 3.1, arXiv:1705.03122.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> params = {"weight": jnp.array([[1.0], [2.0], [3.0]])}
        >>> layers.learned_positions(3).apply(params, jnp.zeros((2, 1))).tolist()
        [[1.0], [2.0]]
    """
    name = f"learned_positions({entries})"
    require_positive(name, entries)

    def require_in_table(x: Array) -> jax.ShapeDtypeStruct:
        example = require_example(name, x, "positions", "features")
        if example.shape[0] > entries:
            raise ValueError(
                f"{name}: expected at most {entries} positions, got {example.shape[0]}; try "
                f"learned_positions({example.shape[0]}), or sinusoidal_positions()"
            )
        return example

    def init(key: PRNGKeyArray, x: Float[Array, "positions features"]) -> dict[str, Array]:
        example = require_in_table(x)
        return {"weight": draw(weight, key, (entries, example.shape[1]), example.dtype)}

    def apply(params: PyTree, x: Float[Array, "positions features"]) -> Array:
        require_in_table(x)
        (table,) = require_params(name, params, "weight")
        require_features(name, x.shape[1], table.shape[1])
        return x + table[: x.shape[0]]

    return Layer(init, without_key(apply), name)
