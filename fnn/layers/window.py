"""Windows that slide over positions: pooling, and the arguments it shares with convolution.

An example has shape (*positions, features), with one axis of positions for each number in
`window`.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fnn.layers.layer import (
    Layer,
    require_array,
    require_example,
    require_positive,
    widened,
    without_key,
    without_params,
)

Padding = Literal["SAME", "VALID"] | int | Sequence[tuple[int, int]]
Widths = Literal["SAME", "VALID"] | tuple[tuple[int, int], ...]


def max_pool(
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The largest value in each window, feature by feature; padding never wins.

    Args:
        window: its size, one number for each axis of positions.
        strides: distance between two windows, one number or one per axis; None puts them side by
            side.
        padding: as for `conv`, but smaller than the window.

    Shapes: (*positions, features) to (*positions', features).

    Returns:
        A layer without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.max_pool((2,)).apply((), jnp.array([[1.0], [5.0], [2.0], [3.0]])).tolist()
        [[5.0], [3.0]]
    """

    def pool(x: Array, reduce: Callable[..., Array]) -> Array:
        return reduce(x, -np.inf, _larger)

    return _pool("max_pool", pool, window, strides, padding)


def average_pool(
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The mean of each window, feature by feature; padding is not counted.

    Args:
        window: its size, one number for each axis of positions.
        strides: distance between two windows, one number or one per axis; None puts them side by
            side.
        padding: as for `conv`, but smaller than the window.

    Shapes: (*positions, features) to (*positions', features).

    Returns:
        A layer without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.average_pool((2,)).apply((), jnp.array([[1.0], [5.0], [2.0], [3.0]])).tolist()
        [[3.0], [2.5]]
    """

    def pool(x: Array, reduce: Callable[..., Array]) -> Array:
        wide = x.astype(widened(x.dtype))
        counts = reduce(jnp.ones((*x.shape[:-1], 1), wide.dtype), 0, jnp.add)
        return (reduce(wide, 0, jnp.add) / counts).astype(x.dtype)

    return _pool("average_pool", pool, window, strides, padding)


def _pool(
    kind: str,
    pool: Callable[[Array, Callable[..., Array]], Array],
    window: Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
) -> Layer:
    """A layer that pools x by `pool(x, reduce)`, where `reduce` slides the window."""
    window = require_window(kind, window)
    name = f"{kind}({window})"
    strides = window if strides is None else per_axis(name, strides, window)
    require_positive(name, *window, *strides)
    widths = pad_widths(name, padding, window)
    require_smaller(name, padding, widths, window)

    def apply(_: tuple[()], x: Float[Array, "*positions features"]) -> Array:
        require_example(name, x, *("positions",) * len(window), "features")
        pads = widths
        if isinstance(pads, str):
            pads = jax.lax.padtype_to_pads(x.shape[:-1], window, strides, pads)
        slides = list(zip(window, strides, pads, strict=True))
        ends = zip(x.shape[:-1], slides, strict=True)
        require_fit(name, x, [n + sum(pad) - (size - 1) for n, (size, _, pad) in ends])

        def reduce(x: Array, start: float, combine: Callable[..., Array]) -> Array:
            for axis, (size, stride, pad) in reversed(list(enumerate(slides))):
                widths = [(*pad, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
                padded = jax.lax.pad(x, np.array(start, x.dtype), widths)
                x = _combined(padded, axis, size, stride, combine)
            return x

        return pool(x, reduce)

    return without_params(without_key(apply), name)


def _combined(
    x: Array, axis: int, size: int, stride: int, combine: Callable[[Array, Array], Array]
) -> Array:
    """What each window along one axis holds, combined in its order: from windows half as long."""
    # `jax.lax.reduce_window` would look for the place of each maximum again for every row of a
    # Jacobian, and on a CPU one entry after another: six times as long for nine rows.
    n = x.shape[axis]

    def every(x: Array, start: int, stride: int, count: int) -> Array:
        return jax.lax.slice_in_dim(x, start, start + stride * (count - 1) + 1, stride, axis)

    places = (n - size) // stride + 1
    if size == 1:
        return every(x, 0, stride, places)
    if size % 2:
        first = _combined(every(x, 0, 1, n - 1), axis, size - 1, stride, combine)
        return combine(first, every(x, size - 1, stride, places))
    if stride % 2:
        halves = _combined(x, axis, size // 2, 1, combine)
        return combine(every(halves, 0, stride, places), every(halves, size // 2, stride, places))
    pairs = combine(every(x, 0, 2, n // 2), every(x, 1, 2, n // 2))
    return _combined(pairs, axis, size // 2, stride // 2, combine)


def _larger(a: Array, b: Array) -> Array:
    """The larger of two arrays' entries, of equal ones the first; what is no number is largest."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def flatten() -> Layer:
    """One axis of features in place of all axes, row by row.

    Shapes: any to (features,).

    Returns:
        A layer without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.flatten().apply((), jnp.ones((4, 4, 3))).shape
        (48,)
    """

    def apply(_: tuple[()], x: Array) -> Array:
        require_array("flatten", x)
        return jnp.reshape(x, -1)

    return without_params(without_key(apply), "flatten")


def per_axis(name: str, value: int | Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """One number for each axis of the window, from one for all of them or one for each."""
    numbers = tuple(value) if isinstance(value, Sequence) else (value,) * len(window)
    if len(numbers) != len(window):
        raise ValueError(
            f"{name}: expected one number, or one for each of {len(window)} axes, got {value}"
        )
    return numbers


def pad_widths(name: str, padding: Padding, window: Sequence[int]) -> Widths:
    """Padding as JAX takes it: a word, or a pair of widths for each axis of the window."""
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        return padding
    pairs = [(padding, padding)] * len(window) if isinstance(padding, int) else padding
    try:
        widths = tuple((operator.index(low), operator.index(high)) for low, high in pairs)
    except (TypeError, ValueError):
        widths = ()
    if len(widths) != len(window) or any(min(pair) < 0 for pair in widths):
        raise ValueError(
            f"{name}: expected 'SAME', 'VALID', a number >= 0, or a pair (before, after) of them "
            f"for each of {len(window)} axes as padding, got {padding!r}"
        )
    return widths


def require_window(kind: str, window: Sequence[int]) -> tuple[int, ...]:
    """A window with at least one axis, as a tuple; a single number does not tell the axes."""
    if not isinstance(window, Sequence) or not window:
        raise ValueError(
            f"{kind}: expected a window with one number for each axis of positions, got {window}; "
            "try (3,) for sequences, (3, 3) for images"
        )
    return tuple(window)


def require_smaller(name: str, padding: Padding, widths: Widths, window: Sequence[int]) -> None:
    """Refuse padding in which a whole window could lie."""
    if not isinstance(widths, str) and any(
        size <= max(pair) for size, pair in zip(window, widths, strict=True)
    ):
        raise ValueError(
            f"{name}: expected padding smaller than the window, got {padding}; try 'SAME'"
        )


def require_fit(name: str, x: Array, places: Sequence[int]) -> None:
    """Refuse inputs over which the window cannot slide: it has no place along some axis."""
    if min(places) < 1:
        raise ValueError(
            f"{name}: expected positions at least as many as the window covers, got {x.shape}; "
            "try padding='SAME' or a smaller window"
        )
