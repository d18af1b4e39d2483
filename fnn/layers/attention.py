"""Attention: means of values, weighted by how well their keys match a query."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from fnn.dtypes import widest
from fnn.layers.combinators import each
from fnn.layers.layer import (
    LECUN_NORMAL,
    Initializer,
    Layer,
    require_example,
    require_params,
    require_positive,
    widened,
    without_key,
)
from fnn.layers.linear import dense


def scaled_dot_product_attention(
    queries: Float[Array, "*batch positions features"],
    keys: Float[Array, "*batch memory features"],
    values: Float[Array, "*batch memory outputs"],
    mask: Bool[Array, "*batch positions memory"] | None = None,
) -> Float[Array, "*batch positions outputs"]:
    """softmax(queries keys^T / sqrt(features)) values.

    The softmax is taken in at least float32.

    Args:
        queries: one for each position.
        keys: one for each position of the memory.
        values: one for each key.
        mask: which positions of the memory each position may see; None: all. A position that may
            see nothing gets zeros.

    Returns:
        For each position a weighted mean of the values.

    Source: Vaswani et al. (2017), eq. 1, arXiv:1706.03762.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> one, values = jnp.ones((3, 4)), jnp.array([[1.0], [2.0], [6.0]])
        >>> see = jnp.tri(3, dtype=bool)
        >>> layers.scaled_dot_product_attention(one, one, values, see).round(2).tolist()
        [[1.0], [1.5], [3.0]]
    """
    wide = widened(widest(queries, keys))
    scores = jnp.einsum("...qf,...mf->...qm", queries, keys, preferred_element_type=wide)
    weights = jax.nn.softmax(scores / math.sqrt(queries.shape[-1]), where=mask)
    return weights.astype(values.dtype) @ values


def causal(position: Int[Array, "..."], memory: Int[Array, "..."]) -> Bool[Array, "..."]:
    """The mask that shows to every position itself and what came before: memory <= position.

    Args:
        position: the one that looks.
        memory: the one looked at.

    Returns:
        Whether it may.

    Example:
        >>> from fnn import layers
        >>> layers.causal(3, 2), layers.causal(2, 3)
        (True, False)
    """
    return memory <= position


def multi_head_attention(
    heads: int,
    *,
    mask: Callable[[Array, Array], Array] | None = None,
    weight: Initializer = LECUN_NORMAL,
) -> Layer:
    """Attention in several heads, between affine maps of its inputs and outputs.

    Given an array of shape (positions, features), every position looks at all of them: self
    attention. Given a tuple (x, memory), the positions of x look at those of memory: cross
    attention. Given (x, memory, present), they look only where the boolean array `present`, one
    entry for each position of memory, is true: so sequences of different lengths share a shape.

    Args:
        heads: how many, a divisor of the features; each has features / heads of them.
        mask: tells from the indices of a position and one of memory whether the first may look at
            the second, for example `causal`, or `lambda i, j: abs(i - j) < 8`; None: it may.
        weight: initializer of the (fan_in, features) weights of all four maps.

    Shapes: (positions, features) to the same; memory may have other features.

    Returns:
        A layer with params {"queries", "keys", "values", "outputs"}, {"weight", "bias"} each, but
        for "keys" without "bias".

    Source: Vaswani et al. (2017), section 3.2.2, arXiv:1706.03762.

    Differs: with biases, except of the keys, where the softmax would cancel it.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> layer, text = layers.multi_head_attention(4), jax.ShapeDtypeStruct((5, 8), "float32")
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), text)
        >>> jax.eval_shape(layer.apply, params, text).shape
        (5, 8)
    """
    name = f"multi_head_attention({heads})"
    require_positive(name, heads)

    def init(key: PRNGKeyArray, x: Any) -> dict[str, PyTree]:
        x, memory, _ = inputs(x)
        maps, keys = maps_of(x), jax.random.split(key, 4)
        sources = {"queries": x, "keys": memory, "values": memory, "outputs": x}
        return {m: maps[m].init(k, sources[m]) for m, k in zip(maps, keys, strict=True)}

    def apply(params: PyTree, x: Any) -> Float[Array, "positions features"]:
        x, memory, present = inputs(x)
        maps = maps_of(x)
        parts = zip(maps, require_params(name, params, *maps), strict=True)
        project = {m: functools.partial(maps[m].apply, part) for m, part in parts}
        visible = present
        if mask is not None:
            allowed = mask(jnp.arange(x.shape[0])[:, None], jnp.arange(memory.shape[0])[None])
            visible = allowed if present is None else allowed & present[None]
        mixed = scaled_dot_product_attention(
            in_heads(project["queries"](x)),
            in_heads(project["keys"](memory)),
            in_heads(project["values"](memory)),
            visible,
        )
        return project["outputs"](jnp.swapaxes(mixed, 0, 1).reshape(x.shape))

    def maps_of(x: Any) -> dict[str, Layer]:
        with_bias = each(dense(x.shape[1], weight=weight))
        without = each(dense(x.shape[1], weight=weight, bias=None))
        return {"queries": with_bias, "keys": without, "values": with_bias, "outputs": with_bias}

    def inputs(x: Any) -> tuple[Any, Any, Any]:
        if not isinstance(x, (tuple, list)):
            x = (x, x)
        if len(x) not in (2, 3):
            raise ValueError(
                f"{name}: expected an array, (x, memory) or (x, memory, present), "
                f"got a tuple of {len(x)}"
            )
        x, memory, present = (*x, None)[:3]
        require_example(name, x, "positions", "features")
        require_example(name, memory, "positions", "features")
        if x.shape[1] % heads:
            raise ValueError(
                f"{name}: expected features that {heads} heads share evenly, got {x.shape[1]}; "
                "try one head"
            )
        return x, memory, present

    def in_heads(x: Float[Array, "positions features"]) -> Float[Array, "heads positions part"]:
        return jnp.swapaxes(x.reshape(x.shape[0], heads, x.shape[1] // heads), 0, 1)

    return Layer(init, without_key(apply), name)
