"""A stack of equal layers, whose weights lie side by side in one array, and a scan over them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from fnn.dtypes import widest
from fnn.layers.layer import Layer, require_kept, require_layers, require_positive


def stack(layer: Layer, n: int) -> Layer:
    """N equal layers, one after another, compiled once: a scan over their stacked parameters.

    It computes what `serial(layer, layer, ...)` does, and starts from the same numbers. `capture`
    and K-FAC see n layers, not one.

    Args:
        layer: a layer whose outputs have the shape of its inputs.
        n: how many, > 0.

    Shapes: those of the layer. Numbers are in the widest dtype of them and the parameters; indices
        and masks among the inputs keep theirs.

    Returns:
        A layer with the params of `layer`, each with one more axis of length n in front; its
        `apply` raises a ValueError when a layer changes the shape or the dtype.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> model = layers.stack(layers.dense(4), 3)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(4))
        >>> params["weight"].shape, jax.eval_shape(model.apply, params, jnp.ones(4)).shape
        ((3, 4, 4), (4,))
    """
    require_layers("stack", layer)
    name = f"stack({layer.name}, {n})"
    require_positive(name, n)

    def init(key: PRNGKeyArray, x: Any) -> PyTree:
        # One at a time, because batched factorizations (of an orthogonal start) may deadlock.
        return jax.lax.map(lambda key: layer.init(key, x), jax.random.split(key, n))

    def apply(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
        if counts - {(n,)}:
            raise ValueError(
                f"{name}: expected parameters with a first axis of length {n}, got "
                f"{sorted(counts)}; make them by init(key, x) of the same model"
            )
        keys = None if key is None else jax.random.split(key, n)

        def one(x: Any, part: tuple[PyTree, PRNGKeyArray | None]) -> tuple[Any, None]:
            outputs = layer.apply(part[0], x, key=part[1])
            require_kept(name, "layer", x, outputs, "serial of different layers")
            return outputs, None

        return jax.lax.scan(one, _widened(x, params), (params, keys), length=n)[0]

    def through(visit: Callable[..., Any], params: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        visited = []
        for i in range(n):
            part, inputs = visit(layer, jax.tree.map(lambda a, i=i: a[i], params), inputs)
            visited.append(part)
        return jax.tree.map(lambda *parts: jnp.stack(parts), *visited), inputs

    return Layer(init, apply, name, through)


def _widened(x: Any, params: PyTree) -> Any:
    """The inputs with numbers as wide as the parameters; what is no such number stays as it is."""

    def one(a: Any) -> Any:
        is_floating = jnp.issubdtype(jnp.result_type(a), jnp.floating)
        return jnp.asarray(a, widest(a, *jax.tree.leaves(params))) if is_floating else a

    return jax.tree.map(one, x)
