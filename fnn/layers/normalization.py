"""Normalizations: the same standardization over different axes, then scale and bias by feature.

    y = (x - mean) / sqrt(var + eps) * scale + bias

Means and variances (biased ones, mean (x - mean)^2) are computed in at least float32; outputs have
the dtype of inputs and parameters.

| layer | mean and var over |
|---|---|
| `layer_norm` | the features of one position |
| `rms_norm` | the same, with mean = 0 |
| `group_norm` | all positions of an example, and the features of one group |
| `batch_norm` | all positions of all examples, each feature by itself |

**Batch normalization** alone looks at other examples. Given a key (training), it takes the means
over the examples of the batch, which an objective maps under the axis name "examples", and over
positions, those of `each` included. Without a key (inference) it uses the `mean` and `var` that
stand in its parameters; no gradient reaches these, and no update of theirs is made in training.
`calibrate` sets them, afterwards, to the exact statistics of a set of data. Until then they are 0
and 1. In training every row of the batch counts the same: neither weights of examples nor the
padding of a last batch are seen, so choose a batch size that divides the data.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fnn.arrays import as_arrays
from fnn.dtypes import widest
from fnn.layers.layer import (
    Layer,
    axis_in_scope,
    over_features,
    positions_in_scope,
    require_example,
    require_features,
    require_layers,
    require_params,
    require_positive,
    widened,
    without_key,
)
from fnn.names import EXAMPLES


def layer_norm(*, eps: float = 1e-5) -> Layer:
    """Normalization over the features of one position.

    Args:
        eps: added to the variance, > 0.

    Shapes: (*positions, features) to the same.

    Returns:
        A layer with params {"scale", "bias"}, (features,) each.

    Source: Ba, Kiros and Hinton (2016), eq. 4, arXiv:1607.06450.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer, x = layers.layer_norm(), jnp.array([1.0, 3.0])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(3).tolist()
        [-1.0, 1.0]
    """
    _require_eps("layer_norm", eps)

    def standardize(x: Array) -> Array:
        return _over_root_mean_square(x - x.mean(axis=-1, keepdims=True), -1, eps)

    return _within_example("layer_norm", standardize, "scale", "bias")


def rms_norm(*, eps: float = 1e-5) -> Layer:
    """Division by the root mean square of the features of one position.

    Args:
        eps: added to the mean square, > 0.

    Shapes: (*positions, features) to the same.

    Returns:
        A layer with params {"scale"}, (features,).

    Source: Zhang and Sennrich (2019), eq. 4, arXiv:1910.07467.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer, x = layers.rms_norm(), jnp.array([3.0, 4.0, 0.0, 0.0])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(1)
        Array([1.2, 1.6, 0. , 0. ], dtype=float...)
    """
    _require_eps("rms_norm", eps)

    def standardize(x: Array) -> Array:
        return _over_root_mean_square(x, -1, eps)

    return _within_example("rms_norm", standardize, "scale")


def group_norm(groups: int, *, eps: float = 1e-5) -> Layer:
    """Normalization over all positions and the features of one group.

    Args:
        groups: how many groups of neighboring features, a divisor of the features; 1 normalizes the
            whole example, as many as features each feature by itself (instance normalization).
        eps: added to the variance, > 0.

    Shapes: (*positions, features) to the same.

    Returns:
        A layer with params {"scale", "bias"}, (features,) each.

    Source: Wu and He (2018), arXiv:1803.08494.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer, x = layers.group_norm(2), jnp.array([1.0, 3.0, 10.0, 30.0])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(3).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """
    name = f"group_norm({groups})"
    require_positive(name, groups)
    _require_eps(name, eps)

    def standardize(x: Array) -> Array:
        if x.shape[-1] % groups:
            raise ValueError(
                f"{name}: expected features that {groups} groups share evenly, got {x.shape[-1]}; "
                "try group_norm(1)"
            )
        parts = x.reshape(-1, groups, x.shape[-1] // groups)
        centered = parts - parts.mean(axis=(0, 2), keepdims=True)
        return _over_root_mean_square(centered, (0, 2), eps).reshape(x.shape)

    return _within_example(name, standardize, "scale", "bias")


def _require_eps(name: str, eps: float) -> None:
    if not eps > 0:
        raise ValueError(f"{name}: expected eps > 0, got {eps}; try 1e-5")


def _over_root_mean_square(x: Array, axis: int | tuple[int, ...], eps: float) -> Array:
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=axis, keepdims=True) + eps)


def _within_example(name: str, standardize: Callable[[Array], Array], *entries: str) -> Layer:
    """A normalization of one example by itself."""
    start = {"scale": jnp.ones, "bias": jnp.zeros}

    def init(key: PRNGKeyArray, x: Float[Array, "*positions features"]) -> dict[str, Array]:
        del key
        example = require_example(name, x, "*positions", "features")
        jax.eval_shape(standardize, example)  # refuses what apply would refuse
        return {entry: start[entry](example.shape[-1:], example.dtype) for entry in entries}

    def apply(params: PyTree, x: Float[Array, "*positions features"]) -> Array:
        require_example(name, x, "*positions", "features")
        values = require_params(name, params, *entries)
        require_features(name, x.shape[-1], values[0].shape[-1])
        return _affine(x, standardize(x.astype(widened(x.dtype))), *values)

    return Layer(init, without_key(apply), name)


def _affine(x: Array, y: Array, scale: Array, bias: Array | None = None) -> Array:
    """Affine: y * scale + bias, computed in the dtype of y, returned in that of x and scale."""
    y = y * over_features(scale.astype(y.dtype), y)
    y = y if bias is None else y + over_features(bias.astype(y.dtype), y)
    return y.astype(widest(x, scale))


def batch_norm(*, eps: float = 1e-5) -> Layer:
    """Normalization over all positions of all examples, each feature by itself.

    With a key, by the statistics of the batch; without, by those in the parameters, which
    `calibrate` sets. See the module's text on batch normalization.

    Args:
        eps: added to the variance, > 0.

    Shapes: (*positions, features) to the same.

    Returns:
        A layer with params {"scale", "bias", "mean", "var"}, (features,) each, the last two in at
        least float32. Its `apply` raises a ValueError when it is given a key outside of
        `jax.vmap(..., axis_name="examples")`.

    Source: Ioffe and Szegedy (2015), algorithms 1 and 2, arXiv:1502.03167.

    Differs: the statistics for inference are those of a given set of data under the final
    parameters, not averages over mini-batches; the variance is the biased one there, too.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer, inputs = layers.batch_norm(), jnp.array([[1.0], [3.0]])
        >>> params = layer.init(jax.random.key(0), inputs[0])
        >>> params = layers.calibrate(layer, params, inputs)
        >>> params["mean"].tolist(), params["var"].tolist()
        ([2.0], [1.0])
        >>> layer.apply(params, inputs[0]).round(3).tolist()
        [-1.0]
    """
    _require_eps("batch_norm", eps)

    def init(key: PRNGKeyArray, x: Float[Array, "*positions features"]) -> dict[str, Array]:
        del key
        example = require_example("batch_norm", x, "*positions", "features")
        shape, wide = example.shape[-1:], widened(example.dtype)
        return {
            "scale": jnp.ones(shape, example.dtype),
            "bias": jnp.zeros(shape, example.dtype),
            "mean": jnp.zeros(shape, wide),
            "var": jnp.ones(shape, wide),
        }

    def apply(
        params: PyTree,
        x: Float[Array, "*positions features"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*positions features"]:
        require_example("batch_norm", x, "*positions", "features")
        scale, bias, mean, var = require_params("batch_norm", params, *_BATCH_NORM)
        require_features("batch_norm", x.shape[-1], scale.shape[-1])
        wide = x.astype(widened(x.dtype))
        if key is None:
            mean, var = jax.lax.stop_gradient((mean, var))
        else:
            mean, var = _statistics(wide, over_batch)
        mean, var = over_features(mean, wide), over_features(var, wide)
        return _affine(x, (wide - mean) * jax.lax.rsqrt(var + eps), scale, bias)

    def through(
        visit: Callable[..., Any], params: PyTree, inputs: Float[Array, "n *positions features"]
    ) -> tuple[PyTree, Array]:
        del visit
        mean, var = _statistics(inputs.astype(widened(inputs.dtype)), lambda means: means)
        params = params | {
            "mean": mean.astype(params["mean"].dtype),
            "var": var.astype(params["var"].dtype),
        }
        return params, jax.vmap(apply, (None, 0))(params, inputs)

    def over_batch(means: Array) -> Array:
        if not axis_in_scope(EXAMPLES):
            raise ValueError(
                f"batch_norm: expected the axis name {EXAMPLES!r}, got a key (training) outside of "
                f"jax.vmap(..., axis_name={EXAMPLES!r}); call the model through Objective.on, or "
                "without a key"
            )
        return jax.lax.pmean(means, (EXAMPLES, *positions_in_scope()))

    return Layer(init, apply, "batch_norm", through)


_BATCH_NORM = ("scale", "bias", "mean", "var")


def _statistics(x: Array, mean_over_batch: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Mean and variance of each feature over all positions, and over what the function adds."""
    positions = tuple(range(x.ndim - 1))
    mean = mean_over_batch(x.mean(axis=positions))
    return mean, mean_over_batch(jnp.square(x - over_features(mean, x)).mean(axis=positions))


def calibrate(model: Layer, params: PyTree, inputs: PyTree) -> PyTree:
    """The parameters, with the statistics of every batch normalization set to those of `inputs`.

    One pass takes all examples through the layers in the order in which the data flow, without a
    key (no dropout). Each `batch_norm` takes mean and variance of what it receives, and hands on
    what it makes of them; so it does in training, had the batch been `inputs`. Everything else is
    returned as it came. Call it after training, and again when the parameters have changed.

    Args:
        model: the layer; a TypeError refuses one that hides a `batch_norm` in a part without
            `through`.
        params: its parameters.
        inputs: a batch of examples along the first axis, as many as memory lets through at once;
            a TypeError refuses what is no array of numbers.

    Returns:
        Parameters of the same structure, shapes and dtypes.

    Raises:
        ValueError: if there are no examples.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> model = layers.serial(layers.flatten(), layers.batch_norm())
        >>> inputs = jnp.array([[0.0], [4.0]])
        >>> params = model.init(jax.random.key(0), inputs[0])
        >>> layers.calibrate(model, params, inputs)[1]["var"].tolist()
        [4.0]
    """
    require_layers("calibrate", model)
    inputs = as_arrays("calibrate", "inputs", inputs)
    if (0,) in {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}:
        raise ValueError("calibrate: expected at least one example, got an empty batch")

    def visit(layer: Layer, params: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        if layer.through is not None:
            return layer.through(visit, params, inputs)
        if any(map(_is_batch_norm, jax.tree.leaves(params, is_leaf=_is_batch_norm))):
            raise TypeError(
                f"calibrate: cannot see the batch_norm inside {layer.name}; build it from the "
                "combinators of fnn.layers, or give its Layer a function `through`"
            )
        return params, jax.vmap(layer.apply, (None, 0))(params, inputs)

    return visit(model, params, jax.tree.map(jnp.asarray, inputs))[0]


def _is_batch_norm(params: PyTree) -> bool:
    return isinstance(params, Mapping) and set(params) == set(_BATCH_NORM)
