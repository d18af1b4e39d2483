"""Layers that act on every unit alone: plain functions, learned slopes, dropout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fnn.layers.layer import (
    Initializer,
    Layer,
    draw,
    over_features,
    require_example,
    require_features,
    require_params,
    without_key,
    without_params,
)

QUARTER: Initializer = jax.nn.initializers.constant(0.25)


def elementwise(f: Callable[[Any], Any]) -> Layer:
    """f(x): a function without parameters as a layer, usually an activation.

    Nothing but the name asks that f act on each element alone: `elementwise(lambda x: x[-1])`
    takes the last position, `elementwise(jnp.concatenate)` joins a tuple of inputs.

    Args:
        f: any function of one example.

    Returns:
        A layer without parameters.

    Raises:
        TypeError: if `f` is a layer or no function.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> layers.elementwise(jax.nn.relu).apply((), jax.numpy.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    if isinstance(f, Layer) or not callable(f):
        raise TypeError(
            f"elementwise: expected a function, got {type(f).__name__}; "
            "try elementwise(jax.nn.relu)"
        )
    inner = getattr(f, "func", f)  # of a functools.partial
    name = getattr(inner, "__name__", type(inner).__name__)

    def apply(_: tuple[()], x: Any) -> Any:
        try:
            return f(x)
        except (TypeError, ValueError, IndexError) as error:
            got = jax.tree.map(lambda leaf: jnp.shape(leaf), x)
            error.add_note(f"elementwise({name}): expected a function of its input, of shape {got}")
            raise

    return without_params(without_key(apply), f"elementwise({name})")


def prelu(*, slope: Initializer = QUARTER) -> Layer:
    """max(0, x) + slope min(0, x), with a learned slope for each feature.

    Args:
        slope: initializer of the (features,) slopes.

    Shapes: (*positions, features) to the same.

    Returns:
        A layer with params {"slope"}.

    Source: He, Zhang, Ren and Sun (2015), eq. 1, arXiv:1502.01852.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> params = {"slope": jnp.array([0.5, -1.0])}
        >>> layers.prelu().apply(params, jnp.array([-2.0, -2.0])).tolist()
        [-1.0, 2.0]
    """

    def init(key: PRNGKeyArray, x: Float[Array, "*positions features"]) -> dict[str, Array]:
        example = require_example("prelu", x, "*positions", "features")
        return {"slope": draw(slope, key, example.shape[-1:], example.dtype)}

    def apply(params: PyTree, x: Float[Array, "*positions features"]) -> Array:
        require_example("prelu", x, "*positions", "features")
        (slopes,) = require_params("prelu", params, "slope")
        require_features("prelu", x.shape[-1], slopes.shape[-1])
        return jnp.where(x > 0, x, over_features(slopes, x) * x)

    return Layer(init, without_key(apply), "prelu")


def dropout(rate: float) -> Layer:
    """Zero for a random part of the units while training, the rest made larger to keep the mean.

    With a key, every unit is dropped with probability `rate`, by a fresh mask for every key (the
    objective gives every example its own), and otherwise divided by 1 - rate. Without a key, x.

    Args:
        rate: the probability of DROPPING a unit, 0 <= rate < 1. (Papers and lectures often give
            the probability of keeping it: kept with 0.8 is `dropout(0.2)`.)

    Shapes: any to the same.

    Returns:
        A layer without parameters.

    Raises:
        ValueError: if `rate` is outside its range.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014), JMLR 15.

    Differs: they multiply by the probability of keeping in inference instead.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.dropout(0.5).apply((), jnp.ones(4)).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> set(layers.dropout(0.5).apply((), jnp.ones(9), key=jax.random.key(0)).tolist())
        {0.0, 2.0}
    """
    name = f"dropout({rate})"
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: expected 0 <= rate < 1, the probability of dropping; try 0.5")

    def apply(
        _: tuple[()], x: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*shape"]:
        example = require_example(name, x, "*shape")
        if key is None:
            return x
        stays = jax.random.bernoulli(key, 1 - rate, example.shape)
        return jnp.where(stays, x / (1 - rate), 0)

    return without_params(apply, name)
