"""Layers that meet weights with inputs: dense, maxout, radial, embedding.

Weights are stored (fan_in, fan_out) under "weight", so that every initializer of
`jax.nn.initializers` finds its fans.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from fnn.layers.layer import (
    LECUN_NORMAL,
    Initializer,
    Layer,
    draw,
    require_array,
    require_example,
    require_features,
    require_params,
    require_positive,
    weight_and_bias,
    without_key,
)

ZEROS: Initializer = jax.nn.initializers.zeros
ONES: Initializer = jax.nn.initializers.ones
NORMAL: Initializer = jax.nn.initializers.normal(1.0)


def dense(
    features: int, *, weight: Initializer = LECUN_NORMAL, bias: Initializer | None = ZEROS
) -> Layer:
    """Dense layer: x @ weight + bias.

    Args:
        features: how many outputs, > 0.
        weight: initializer of the (fan_in, features) weights.
        bias: initializer of the biases; None for a layer without them.

    Shapes: (fan_in,) to (features,).

    Returns:
        A layer with params {"weight", "bias"}.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer = layers.dense(8)
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones(4))
        >>> params["weight"].shape, jax.eval_shape(layer.apply, params, jnp.ones(4)).shape
        ((4, 8), (8,))
    """
    name = f"dense({features})"
    require_positive(name, features)
    return _dense(name, features, weight, bias)


def maxout(
    features: int,
    pieces: int,
    *,
    weight: Initializer = LECUN_NORMAL,
    bias: Initializer | None = ZEROS,
) -> Layer:
    """The largest of some linear functions, for every feature.

    One unit is a convex, piecewise linear function of its inputs; with many pieces, any convex one.

    Args:
        features: how many outputs, > 0.
        pieces: linear functions per output, > 0.
        weight: initializer of the (fan_in, features * pieces) weights; the pieces of one feature
            are neighbors.
        bias: initializer of the biases; None for a layer without them.

    Shapes: (fan_in,) to (features,).

    Returns:
        A layer with params {"weight", "bias"}.

    Source: Goodfellow, Warde-Farley, Mirza, Courville and Bengio (2013), arXiv:1302.4389.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> absolute = {"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}
        >>> layers.maxout(1, 2).apply(absolute, jnp.array([-3.0])).tolist()
        [3.0]
    """
    name = f"maxout({features}, {pieces})"
    require_positive(name, features, pieces)
    linear = _dense(name, features * pieces, weight, bias)

    def apply(params: PyTree, x: Float[Array, " fan_in"]) -> Float[Array, " features"]:
        return linear.apply(params, x).reshape(features, pieces).max(axis=-1)

    return Layer(linear.init, without_key(apply), name)


def _dense(name: str, features: int, weight: Initializer, bias: Initializer | None) -> Layer:
    entries = ("weight",) if bias is None else ("weight", "bias")

    def init(key: PRNGKeyArray, x: Float[Array, " fan_in"]) -> dict[str, Array]:
        example = require_example(name, x, "features")
        shape = (*example.shape, features)
        return weight_and_bias(key, shape, example.dtype, weight, bias)

    def apply(params: PyTree, x: Float[Array, " fan_in"]) -> Float[Array, " features"]:
        require_example(name, x, "features")
        matrix, *biases = require_params(name, params, *entries)
        require_features(name, x.shape[0], matrix.shape[0])
        outputs = x @ matrix
        return outputs + biases[0] if biases else outputs

    return Layer(init, without_key(apply), name)


def radial(features: int, *, center: Initializer = NORMAL, width: Initializer = ONES) -> Layer:
    """Radial basis functions: exp(-|x - center|^2 / (2 width^2)), one bump for every feature.

    A radial basis function network is `serial(radial(n), dense(k))`. With centers and widths held
    it is linear in what remains, and one Levenberg-Marquardt step without damping solves it.

    Args:
        features: how many bumps, > 0.
        center: initializer of the (fan_in, features) centers.
        width: initializer of the (features,) widths, not 0.

    Shapes: (fan_in,) to (features,).

    Returns:
        A layer with params {"center", "width"}.

    Source: Broomhead and Lowe, "Multivariable functional interpolation and adaptive networks",
    Complex Systems 2 (1988).

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> params = {"center": jnp.array([[0.0, 3.0], [0.0, 4.0]]), "width": jnp.ones(2)}
        >>> jnp.log(layers.radial(2).apply(params, jnp.zeros(2))).round(4).tolist()
        [0.0, -12.5]
    """
    name = f"radial({features})"
    require_positive(name, features)

    def init(key: PRNGKeyArray, x: Float[Array, " fan_in"]) -> dict[str, Array]:
        example = require_example(name, x, "features")
        center_key, width_key = jax.random.split(key)
        shape = (example.shape[0], features)
        return {
            "center": draw(center, center_key, shape, example.dtype),
            "width": draw(width, width_key, (features,), example.dtype),
        }

    def apply(params: PyTree, x: Float[Array, " fan_in"]) -> Float[Array, " features"]:
        require_example(name, x, "features")
        centers, widths = require_params(name, params, "center", "width")
        require_features(name, x.shape[0], centers.shape[0])
        return jnp.exp(-jnp.sum(((x[:, None] - centers) / widths[None]) ** 2, axis=0) / 2)

    return Layer(init, without_key(apply), name)


def embedding(entries: int, features: int, *, weight: Initializer = NORMAL) -> Layer:
    """A row of a table for every index.

    An index outside the table gives a row of NaN, never the row of another index; -1 is the last.

    Args:
        entries: rows of the table, > 0.
        features: length of a row, > 0.
        weight: initializer of the (entries, features) table; by default Gaussian of variance 1.

    Shapes: integers of any shape to (*shape, features).

    Returns:
        A layer with params {"weight"}, in JAX's default float dtype.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer = layers.embedding(1000, 16)
        >>> words = jnp.array([5, 999])
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), words)
        >>> jax.eval_shape(layer.apply, params, words).shape
        (2, 16)
    """
    name = f"embedding({entries}, {features})"
    require_positive(name, entries, features)

    def require_indices(x: Int[Array, "*shape"]) -> None:
        example = require_array(name, x)
        if not jnp.issubdtype(example.dtype, jnp.integer):
            raise TypeError(
                f"{name}: expected integer indices, got {example.dtype}; "
                "cast them with x.astype(int), or use layers.dense"
            )

    def init(key: PRNGKeyArray, x: Int[Array, "*shape"]) -> dict[str, Array]:
        require_indices(x)
        return {"weight": draw(weight, key, (entries, features), jnp.result_type(float))}

    def apply(params: PyTree, x: Int[Array, "*shape"]) -> Float[Array, "*shape features"]:
        require_indices(x)
        (table,) = require_params(name, params, "weight")
        return table.at[x].get(mode="fill", fill_value=jnp.nan)

    return Layer(init, without_key(apply), name)
