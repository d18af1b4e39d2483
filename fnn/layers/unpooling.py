"""Pooling that remembers where, and the way back: unpooling, upsampling."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from fnn.layers.layer import (
    Layer,
    require_example,
    require_layers,
    require_positive,
    widened,
    without_key,
    without_params,
)
from fnn.layers.window import Padding, pad_widths, per_axis, require_smaller, require_window


def max_pool_indices(
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The largest value in each window, and where it was: (values, indices).

    The indices count positions row by row, from 0. Of equal values the first is taken.

    Args:
        window: its size, one number for each axis of positions.
        strides: distance between two windows; None puts them side by side.
        padding: as for `conv`, but smaller than the window.

    Shapes: (*positions, features) to (*positions', features) twice.

    Returns:
        A layer without parameters, for `unpool`.

    Source: Badrinarayanan, Kendall and Cipolla (2015), SegNet, arXiv:1511.00561.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> x = jnp.array([[1.0], [5.0], [2.0], [3.0]])
        >>> values, indices = layers.max_pool_indices((2,)).apply((), x)
        >>> values.ravel().tolist(), indices.ravel().tolist()
        ([5.0, 3.0], [1, 3])
    """
    window = require_window("max_pool_indices", window)
    name = f"max_pool_indices({window})"
    strides = window if strides is None else per_axis(name, strides, window)
    require_positive(name, *window, *strides)
    widths = pad_widths(name, padding, window)
    require_smaller(name, padding, widths, window)

    def apply(_: tuple[()], x: Float[Array, "*positions features"]) -> tuple[Array, Array]:
        require_example(name, x, *("positions",) * len(window), "features")
        *positions, features = x.shape
        pads = widths
        if isinstance(pads, str):
            pads = jax.lax.padtype_to_pads(positions, window, strides, pads)
        taps = _taps(tuple(positions), window, strides, pads)
        if 0 in taps.shape:
            raise ValueError(
                f"{name}: expected positions at least as many as the window covers, got "
                f"{x.shape}; try padding='SAME' or a smaller window"
            )
        rows = jnp.reshape(x, (-1, features))
        flat = taps.reshape(-1, taps.shape[-1])
        best = jnp.argmax(rows[flat], axis=1)
        indices = jnp.take_along_axis(jnp.asarray(flat, jnp.int32), best, axis=1)
        values = jnp.take_along_axis(rows, indices, axis=0)
        shape = (*taps.shape[:-1], features)
        return values.reshape(shape), indices.reshape(shape)

    return without_params(without_key(apply), name)


def _taps(
    positions: tuple[int, ...],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> np.ndarray:
    """The positions that each window covers; a padded tap is the first one that is not."""
    taps = np.zeros((*(1,) * len(window), 1), int)
    inside = np.ones_like(taps, bool)
    for axis, n in enumerate(positions):
        low, high = pads[axis]
        count = max(0, (n + low + high - window[axis]) // strides[axis] + 1)
        places = np.arange(count)[:, None] * strides[axis] - low + np.arange(window[axis])
        shape = (*(count if a == axis else 1 for a in range(len(window))), 1, window[axis])
        places = places.reshape(shape)
        around = np.broadcast_shapes(taps.shape[:-1], shape[:-2])
        covered = taps.shape[-1] * window[axis]
        taps = (taps[..., None] * n + places).reshape(*around, covered)
        inside = (inside[..., None] & (places >= 0) & (places < n)).reshape(taps.shape)
    first = np.take_along_axis(taps, inside.argmax(-1)[..., None], -1) if taps.size else taps
    return np.where(inside, taps, first)


def unpool(
    values: Float[Array, "*windows features"],
    indices: Int[Array, "*windows features"],
    positions: Sequence[int],
) -> Float[Array, "*positions features"]:
    """Values put back to where a pooling found its largest, and zeros elsewhere.

    The transpose of taking them there: values that go to one place (of windows that overlap) add.
    An index outside of the positions is left out.

    Args:
        values: one for each window and feature.
        indices: of `max_pool_indices`, of the same shape.
        positions: how many there were on each axis.

    Returns:
        An array of shape (*positions, features).

    Raises:
        ValueError: if values and indices have different shapes.
        TypeError: if the indices are no integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.unpool(jnp.array([[5.0], [3.0]]), jnp.array([[1], [3]]), (4,)).ravel().tolist()
        [0.0, 5.0, 0.0, 3.0]
    """
    require_example("unpool", values, "*windows", "features")
    if jnp.shape(values) != jnp.shape(indices):
        raise ValueError(
            f"unpool: expected indices of the shape of the values {jnp.shape(values)}, got "
            f"{jnp.shape(indices)}; try a layer in between that keeps positions and features"
        )
    if not jnp.issubdtype(jnp.asarray(indices).dtype, jnp.integer):
        raise TypeError(
            f"unpool: expected integer indices, got {jnp.asarray(indices).dtype}; try those of "
            "max_pool_indices"
        )
    require_positive("unpool", *positions)
    features = values.shape[-1]
    size = math.prod(positions)
    rows = jnp.reshape(indices, (-1, features))
    rows = jnp.where(rows < 0, size, rows)  # JAX would count it from the end.
    places = jnp.zeros((size, features), values.dtype)
    placed = places.at[rows, jnp.arange(features)].add(values.reshape(rows.shape), mode="drop")
    return placed.reshape(*positions, features)


def pooled(
    layer: Layer,
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """A layer between a pooling and its unpooling: what SegNet is made of, one in another.

    Args:
        layer: a layer on the pooled values, which keeps their shape.
        window: as for `max_pool_indices`.
        strides: as for `max_pool_indices`.
        padding: as for `max_pool_indices`.

    Shapes: (*positions, features) to the same.

    Returns:
        A layer with the params of `layer`.

    Source: Badrinarayanan, Kendall and Cipolla (2015), arXiv:1511.00561.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> twice = layers.pooled(layers.elementwise(lambda h: 2 * h), (2,))
        >>> twice.apply((), jnp.array([[1.0], [5.0], [3.0], [2.0]])).ravel().tolist()
        [0.0, 10.0, 6.0, 0.0]
    """
    require_layers("pooled", layer)
    pool = max_pool_indices(window, strides=strides, padding=padding)

    def init(key: PRNGKeyArray, x: Any) -> PyTree:
        return layer.init(key, jax.eval_shape(pool.apply, (), x)[0])

    def apply(params: PyTree, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        values, indices = pool.apply((), x)
        return unpool(layer.apply(params, values, key=key), indices, x.shape[:-1])

    def through(visit: Callable[..., Any], params: PyTree, inputs: Array) -> tuple[PyTree, Array]:
        values, indices = jax.vmap(lambda x: pool.apply((), x))(inputs)
        params, outputs = visit(layer, params, values)
        positions = inputs.shape[1:-1]
        return params, jax.vmap(lambda v, i: unpool(v, i, positions))(outputs, indices)

    return Layer(init, apply, f"pooled({layer.name}, {tuple(window)})", through)


def upsample(factors: Sequence[int], *, method: Literal["nearest", "linear"] = "nearest") -> Layer:
    """More positions: each repeated, or straight lines between their centers.

    Args:
        factors: how many positions for one, a number for each axis of positions.
        method: "nearest" repeats a position; "linear" draws lines, and repeats at the edges.

    Shapes: (*positions, features) to (*(factors * positions), features).

    Returns:
        A layer without parameters.

    Raises:
        ValueError: if there is no such method.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> x = jnp.array([[0.0], [4.0]])
        >>> layers.upsample((2,)).apply((), x).ravel().tolist()
        [0.0, 0.0, 4.0, 4.0]
        >>> layers.upsample((2,), method="linear").apply((), x).ravel().tolist()
        [0.0, 1.0, 3.0, 4.0]
    """
    factors = require_window("upsample", factors)
    name = f"upsample({factors})"
    require_positive(name, *factors)
    if method not in ("nearest", "linear"):
        raise ValueError(
            f"{name}: expected method 'nearest' or 'linear', got {method!r}; try 'nearest'"
        )

    def apply(_: tuple[()], x: Float[Array, "*positions features"]) -> Array:
        require_example(name, x, *("positions",) * len(factors), "features")
        if method == "nearest":
            for axis, factor in enumerate(factors):
                x = jnp.repeat(x, factor, axis)
            return x
        shape = [n * k for n, k in zip(x.shape, (*factors, 1), strict=True)]
        wide = x.astype(widened(x.dtype))
        return jax.image.resize(wide, shape, "linear", antialias=False).astype(x.dtype)

    return without_params(without_key(apply), name)
