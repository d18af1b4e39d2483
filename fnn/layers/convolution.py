"""Convolution and its transpose.

Kernels are stored (*window, fan_in per tap, fan_out) under "weight", so that every initializer of
`jax.nn.initializers` finds its fans.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fnn.dtypes import widest
from fnn.layers.layer import (
    LECUN_NORMAL,
    Initializer,
    Layer,
    over_features,
    require_example,
    require_features,
    require_params,
    require_positive,
    weight_and_bias,
    without_key,
)
from fnn.layers.window import Padding, pad_widths, per_axis, require_fit, require_window

ZEROS: Initializer = jax.nn.initializers.zeros


def conv(
    features: int,
    window: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    weight: Initializer = LECUN_NORMAL,
    bias: Initializer | None = ZEROS,
) -> Layer:
    """Convolution over any number of axes (in fact correlation: the kernel is not flipped).

    Args:
        features: how many outputs at each position, > 0.
        window: size of the kernel; one number for each axis of positions.
        strides: distance between two outputs, one number or one per axis.
        padding: zeros around the input: "SAME" (positions / strides, rounded up), "VALID" (none),
            a number for all sides, or a pair (before, after) for each axis.
        dilation: distance between two taps of the kernel, one number or one per axis.
        groups: input and output features are cut into this many groups that do not see each other;
            as many groups as input features make a depthwise convolution.
        weight: initializer of the (*window, fan_in / groups, features) kernel.
        bias: initializer of the biases; None for a layer without them.

    Shapes: (*positions, fan_in) to (*positions', features).

    Returns:
        A layer with params {"weight", "bias"}.

    Raises:
        ValueError: if `groups` does not divide `features`.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> layer = layers.conv(16, (3, 3), strides=2)
        >>> image = jax.ShapeDtypeStruct((8, 8, 3), "float32")
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), image)
        >>> jax.eval_shape(layer.apply, params, image).shape
        (4, 4, 16)
    """
    window = require_window("conv", window)
    name = f"conv({features}, {window})"
    strides, dilation = per_axis(name, strides, window), per_axis(name, dilation, window)
    require_positive(name, features, groups, *window, *strides, *dilation)
    widths = pad_widths(name, padding, window)
    if features % groups:
        raise ValueError(
            f"{name}: expected groups that divide {features} features, got groups={groups}"
        )
    entries = ("weight",) if bias is None else ("weight", "bias")
    positions = ("positions",) * len(window)
    layout = _layout(len(window))

    def init(key: PRNGKeyArray, x: Float[Array, "*positions fan_in"]) -> dict[str, Array]:
        example = require_example(name, x, *positions, "features")
        if example.shape[-1] % groups:
            raise ValueError(
                f"{name}: expected inputs with features in {groups} groups, "
                f"got {example.shape[-1]} features; try groups=1"
            )
        shape = (*window, example.shape[-1] // groups, features)
        return weight_and_bias(key, shape, example.dtype, weight, bias)

    def apply(
        params: PyTree, x: Float[Array, "*positions fan_in"]
    ) -> Float[Array, "*positions2 features"]:
        require_example(name, x, *positions, "features")
        kernel, *biases = require_params(name, params, *entries)
        require_features(name, x.shape[-1], kernel.shape[-2] * groups)
        dtype = widest(x, kernel)
        outputs = jax.lax.conv_general_dilated(
            x.astype(dtype)[None],
            kernel.astype(dtype),
            window_strides=strides,
            padding=widths,
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
        require_fit(name, x, outputs.shape[1:-1])
        y = outputs[0]
        return y + over_features(biases[0], y) if biases else y

    return Layer(init, without_key(apply), name)


def conv_transpose(
    features: int,
    window: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    weight: Initializer = LECUN_NORMAL,
    bias: Initializer | None = ZEROS,
) -> Layer:
    """The transpose of a convolution: every input adds the kernel to the outputs, `strides` apart.

    With the kernel of `conv` (its last two axes exchanged) and no biases, it is the adjoint map:
    <conv(x), y> = <x, conv_transpose(y)>.

    Args:
        features: how many outputs at each position, > 0.
        window: size of the kernel; one number for each axis of positions.
        strides: distance between the places of two inputs, one number or one per axis.
        padding: that of the convolution, which here is cut off: "SAME" (positions * strides),
            "VALID" (nothing is cut), a number for all sides, or a pair for each axis.
        weight: initializer of the (*window, fan_in, features) kernel.
        bias: initializer of the biases; None for a layer without them.

    Shapes: (*positions, fan_in) to (*positions', features).

    Returns:
        A layer with params {"weight", "bias"}; its `apply` raises a ValueError when the padding
        cuts off all outputs.

    Source: Zeiler, Krishnan, Taylor and Fergus (2010), doi:10.1109/CVPR.2010.5539957.

    Differs: flax does not flip the kernel, so that without an argument it is not the adjoint.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> layer = layers.conv_transpose(3, (3, 3), strides=2)
        >>> image = jax.ShapeDtypeStruct((4, 4, 16), "float32")
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), image)
        >>> jax.eval_shape(layer.apply, params, image).shape
        (8, 8, 3)
    """
    window = require_window("conv_transpose", window)
    name = f"conv_transpose({features}, {window})"
    strides = per_axis(name, strides, window)
    require_positive(name, features, *window, *strides)
    widths = pad_widths(name, padding, window)
    entries = ("weight",) if bias is None else ("weight", "bias")
    positions, axes = ("positions",) * len(window), tuple(range(len(window)))
    layout = _layout(len(window))

    def init(key: PRNGKeyArray, x: Float[Array, "*positions fan_in"]) -> dict[str, Array]:
        example = require_example(name, x, *positions, "features")
        shape = (*window, example.shape[-1], features)
        return weight_and_bias(key, shape, example.dtype, weight, bias)

    def cut(n: int, axis: int) -> tuple[int, int]:
        """What is put before and after n inputs that lie apart; below zero, what is cut off."""
        size, stride = window[axis], strides[axis]
        if widths == "SAME":
            ((low, high),) = jax.lax.padtype_to_pads([n * stride], [size], [stride], "SAME")
            return size - 1 - low, n * stride - (n - 1) * stride - 1 + low
        low, high = (0, 0) if isinstance(widths, str) else widths[axis]
        return size - 1 - low, size - 1 - high

    def cuts(x: Array) -> list[tuple[int, int]]:
        """`cut` of every axis; what leaves no output is refused."""
        pairs = [cut(n, axis) for axis, n in enumerate(x.shape[:-1])]
        for n, size, stride, pair in zip(x.shape, window, strides, pairs, strict=False):
            apart = (n - 1) * stride + 1
            if apart + sum(pair) < size or apart + min(pair) < 0:
                raise ValueError(
                    f"{name}: expected padding that leaves something of what {n} positions make, "
                    f"got {padding}; try 'SAME'"
                )
        return pairs

    def apply(
        params: PyTree, x: Float[Array, "*positions fan_in"]
    ) -> Float[Array, "*positions2 features"]:
        require_example(name, x, *positions, "features")
        kernel, *biases = require_params(name, params, *entries)
        require_features(name, x.shape[-1], kernel.shape[-2])
        dtype = widest(x, kernel)
        outputs = jax.lax.conv_general_dilated(
            x.astype(dtype)[None],
            jnp.flip(kernel.astype(dtype), axes),
            window_strides=(1,) * len(window),
            padding=cuts(x),
            lhs_dilation=strides,
            dimension_numbers=layout,
        )
        y = outputs[0]
        return y + over_features(biases[0], y) if biases else y

    return Layer(init, without_key(apply), name)


def _layout(axes: int) -> jax.lax.ConvDimensionNumbers:
    """Features last, in the kernel those of the inputs before those of the outputs."""
    last = axes + 1
    inputs = (0, last, *range(1, last))
    return jax.lax.ConvDimensionNumbers(inputs, (last, last - 1, *range(axes)), inputs)
