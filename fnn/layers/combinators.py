"""Layers made of layers.

Parameters of a combinator are a tuple with those of its parts in order (those of `each` and
`residual`, which have one part, are that part's own). A key is split among the parts when there is
one. Each combinator says in `through` how the data flow, so that `calibrate` and `summary` see its
parts.

A layer used twice with the same weights needs no combinator: call its `apply` twice, from a
function of your own, with the same parameters.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from fnn.layers.layer import (
    Layer,
    positions_in_scope,
    require_array,
    require_layers,
    require_positions,
    without_key,
    without_params,
)


def serial(*layers: Layer) -> Layer:
    """One layer after another: the outputs of each are the inputs of the next.

    Args:
        *layers: the layers in order; without any, the identity.

    Returns:
        A layer with a tuple of params.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> model = layers.serial(
        ...     layers.dense(32), layers.elementwise(jnp.tanh), layers.dense(10)
        ... )
        >>> x = jax.ShapeDtypeStruct((64,), "float32")
        >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
        >>> jax.eval_shape(model.apply, params, x).shape
        (10,)
    """
    require_layers("serial", *layers)

    def init(key: PRNGKeyArray, x: Any) -> tuple[PyTree, ...]:
        params = []
        for layer, part_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            params.append(layer.init(part_key, x))
            x = jax.eval_shape(layer.apply, params[-1], x)
        return tuple(params)

    def apply(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        _require_parts("serial", "params", params, layers)
        for layer, part, part_key in zip(layers, params, _split(key, layers), strict=True):
            x = layer.apply(part, x, key=part_key)
        return x

    def through(visit: Callable[..., Any], params: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        visited = []
        for layer, part in zip(layers, params, strict=True):
            part, inputs = visit(layer, part, inputs)
            visited.append(part)
        return tuple(visited), inputs

    return Layer(init, apply, "serial", through)


def parallel(*layers: Layer) -> Layer:
    """Layers side by side: the i-th acts on the i-th part of a tuple.

    Args:
        *layers: one for each part of the inputs.

    Shapes: a tuple of inputs to a tuple of outputs.

    Returns:
        A layer with a tuple of params.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> model = layers.serial(
        ...     layers.parallel(layers.dense(3), layers.embedding(7, 3)), layers.fan_in_add()
        ... )
        >>> x = (jnp.ones(5), jnp.array(6))
        >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
        >>> jax.eval_shape(model.apply, params, x).shape
        (3,)
    """
    return _side_by_side(
        "parallel", layers, lambda x: _require_parts("parallel", "inputs", x, layers)
    )


def fan_out(*layers: Layer) -> Layer:
    """Layers that all act on the same input.

    Args:
        *layers: the layers; `serial()` among them hands the input on.

    Shapes: inputs to a tuple of outputs.

    Returns:
        A layer with a tuple of params.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> model = layers.serial(
        ...     layers.fan_out(layers.dense(3), layers.serial()), layers.fan_in_concatenate()
        ... )
        >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(5))
        >>> jax.eval_shape(model.apply, params, jnp.ones(5)).shape
        (8,)
    """
    return _side_by_side("fan_out", layers, lambda x: (x,) * len(layers))


def _side_by_side(
    name: str, layers: Sequence[Layer], parts_of: Callable[[Any], Sequence[Any]]
) -> Layer:
    """The layers, each on its own part of what `parts_of` makes of the inputs."""
    require_layers(name, *layers)

    def init(key: PRNGKeyArray, x: Any) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, len(layers))
        parts = zip(layers, keys, parts_of(x), strict=True)
        return tuple(layer.init(key, part) for layer, key, part in parts)

    def apply(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> tuple[Any, ...]:
        _require_parts(name, "params", params, layers)
        parts = zip(layers, params, parts_of(x), _split(key, layers), strict=True)
        return tuple(layer.apply(params, part, key=key) for layer, params, part, key in parts)

    def through(visit: Callable[..., Any], params: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        visited = [visit(*part) for part in zip(layers, params, parts_of(inputs), strict=True)]
        return tuple(params for params, _ in visited), tuple(outputs for _, outputs in visited)

    return Layer(init, apply, name, through)


def fan_in_add() -> Layer:
    """The sum of a tuple of inputs of one shape.

    Shapes: a tuple of equal shapes to that shape.

    Returns:
        A layer without parameters; its `apply` raises a ValueError when the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.fan_in_add().apply((), (jnp.array([1.0]), jnp.array([2.0]))).tolist()
        [3.0]
    """

    def apply(_: tuple[()], x: Sequence[Array]) -> Array:
        _require_one_shape("fan_in_add", *_require_parts("fan_in_add", "inputs", x))
        return functools.reduce(operator.add, x)

    return without_params(without_key(apply), "fan_in_add")


def fan_in_concatenate(*, axis: int = -1) -> Layer:
    """A tuple of inputs joined along one axis.

    Args:
        axis: of one example; -1 joins features, 0 positions.

    Shapes: a tuple of shapes that differ in this axis only, to one shape.

    Returns:
        A layer without parameters; its `apply` raises a ValueError when the other axes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.fan_in_concatenate().apply((), (jnp.array([1.0]), jnp.array([2.0]))).tolist()
        [1.0, 2.0]
    """

    def apply(_: tuple[()], x: Sequence[Array]) -> Array:
        parts = _require_parts("fan_in_concatenate", "inputs", x)
        shapes = [require_array("fan_in_concatenate", part).shape for part in parts]
        axes = len(shapes[0])
        others = {shape[: axis % axes] + shape[axis % axes + 1 :] for shape in shapes if axes}
        if not -axes <= axis < axes or len({*map(len, shapes)}) > 1 or len(others) > 1:
            raise ValueError(
                f"fan_in_concatenate: expected shapes that differ along axis {axis} alone, got "
                f"{', '.join(map(str, shapes))}; bring them to such with fan_out(layer, projection)"
            )
        return jnp.concatenate(parts, axis)

    return without_params(without_key(apply), "fan_in_concatenate")


def residual(layer: Layer) -> Layer:
    """Shortcut: x + layer(x).

    A shortcut that itself changes the shape is
    `serial(fan_out(layer, projection), fan_in_add())`.

    Args:
        layer: a layer whose outputs have the shape of its inputs.

    Returns:
        A layer with the params of `layer`; its `apply` raises a ValueError when the shapes differ.

    Source: He, Zhang, Ren and Sun (2015), eq. 1, arXiv:1512.03385.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layers.residual(layers.elementwise(jnp.sqrt)).apply((), jnp.array([4.0])).tolist()
        [6.0]
    """
    require_layers("residual", layer)

    def apply(params: PyTree, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        return add(x, layer.apply(params, x, key=key))

    def through(visit: Callable[..., Any], params: PyTree, inputs: Array) -> tuple[PyTree, Array]:
        params, outputs = visit(layer, params, inputs)
        return params, add(inputs, outputs)

    def add(x: Array, outputs: Array) -> Array:
        _require_one_shape("residual", x, outputs)
        return x + outputs

    return Layer(layer.init, apply, "residual", through)


def each(layer: Layer) -> Layer:
    """A layer at every position: mapped over the first axis of the inputs with the same parameters.

    A dense layer for the words of a text is `each(dense(8))`, one for the pixels of an image
    `each(each(dense(8)))`. A key is split among the positions; a `batch_norm` inside looks at all
    of them together.

    Args:
        layer: a layer for one position.

    Shapes: (positions, *shape) to (positions, *outputs), for every array of the inputs.

    Returns:
        A layer with the params of `layer`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer, text = layers.each(layers.dense(8)), jnp.ones((5, 3))
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), text)
        >>> params["weight"].shape, jax.eval_shape(layer.apply, params, text).shape
        ((3, 8), (5, 8))
    """
    require_layers("each", layer)

    def init(key: PRNGKeyArray, x: Any) -> PyTree:
        require_positions("each", x)
        return layer.init(
            key, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
        )

    def apply(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        keys = None if key is None else jax.random.split(key, require_positions("each", x))
        # Under its name batch_norm averages over this axis, too; an inner `each` takes another.
        name = f"positions {len(positions_in_scope())}"
        at_position = jax.vmap(lambda x, key: layer.apply(params, x, key=key), axis_name=name)
        return at_position(x, keys)

    def through(visit: Callable[..., Any], params: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        examples, positions = jax.tree.leaves(inputs)[0].shape[:2]
        rows = jax.tree.map(lambda a: a.reshape(examples * positions, *a.shape[2:]), inputs)
        params, outputs = visit(layer, params, rows)
        return params, jax.tree.map(lambda a: a.reshape(examples, positions, *a.shape[1:]), outputs)

    return Layer(init, apply, "each", through)


def _split(key: PRNGKeyArray | None, layers: Sequence[Layer]) -> Sequence[PRNGKeyArray | None]:
    """A key for each layer, or None for each."""
    return [None] * len(layers) if key is None else list(jax.random.split(key, len(layers)))


def _require_parts(
    name: str, what: str, parts: Any, layers: Sequence[Layer] | None = None
) -> Sequence[Any]:
    """The parts of a tuple or list: one for each layer, or without layers at least one."""
    if not isinstance(parts, (tuple, list)):
        hint = "fan_out makes one of a single input" if what == "inputs" else "init makes one"
        raise TypeError(f"{name}: expected a tuple of {what}, got {type(parts).__name__}; {hint}")
    if layers is None and not parts:
        raise ValueError(f"{name}: expected a tuple of {what}, got an empty one; try fan_out")
    if layers is not None and len(parts) != len(layers):
        raise ValueError(
            f"{name}: expected {what} for {len(layers)} layers, got {len(parts)}; "
            "the model that made them has other layers"
        )
    return parts


def _require_one_shape(name: str, *arrays: Array) -> None:
    """Refuse to add what would be broadcast."""
    shapes = [require_array(name, array).shape for array in arrays]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"{name}: expected terms of one shape, got {', '.join(map(str, shapes))}; "
            "bring them to one with fan_out(layer, projection)"
        )
