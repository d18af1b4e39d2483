"""A module of flax's nnx as a layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from fnn.bridges.variables import (
    CALIBRATING,
    INFERENCE,
    TRAINING,
    Bridge,
    Variables,
    Way,
    axes_in_scope,
    batch_of_one,
    first,
    layer_of,
    require_axis,
    require_statistics,
)
from fnn.names import EXAMPLES
from fnn.requirements import load

_WHO = "from_nnx"
_HINT = (
    "a module that is called as module(x) and told training from inference by train() and eval(), "
    "with rngs for its dropout; and one example for init"
)


def from_nnx(module: Any) -> Bridge:
    """A module of flax's nnx as a layer.

    The module is copied, and called as its own users call it, on a batch (of one): after `train()`
    where a key is given, and after `eval()` where there is none. Its streams of random numbers are
    drawn from the key. A ValueError refuses variables other than parameters, the statistics of
    batch normalization and streams of random numbers, and batch normalization over another axis.

    Args:
        module: an `nnx.Module`.

    Returns:
        A bridge. `init` returns the module's own variables, whatever its key. `back` gives a new
        module; `nnx.update(module, *params)` puts them into one that is there.

    Raises:
        TypeError: if it is no module of nnx.

    Example:
        >>> from flax import nnx
        >>> import jax, jax.numpy as jnp
        >>> from fnn import layers
        >>> model, back = from_nnx(nnx.BatchNorm(1, rngs=nnx.Rngs(0)))
        >>> inputs = jnp.array([[1.0], [3.0]], jnp.float32)
        >>> params = model.init(jax.random.key(0), inputs[0])
        >>> params = layers.calibrate(model, params, inputs)
        >>> back(params)(inputs, use_running_average=True).round(2).tolist()
        [[-1.0], [1.0]]
    """
    nnx = load(_WHO, "flax.nnx")
    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"{_WHO}: expected a module of flax.nnx, got {type(module).__name__}; try from_flax, "
            "from_equinox or from_haiku for what is theirs"
        )
    module = nnx.clone(module)
    kinds = nnx.Param, nnx.BatchStat, nnx.RngState, ...
    graph, params, statistics, streams, rest = nnx.split(module, *kinds)
    require_statistics(_WHO, _others(nnx, module, statistics, rest))
    graph_of = functools.cache(functools.partial(_graph, nnx, module))
    for way in (TRAINING, CALIBRATING, INFERENCE):
        graph_of(way, (EXAMPLES,))

    def start(key: PRNGKeyArray, x: PyTree) -> Variables:
        del key, x
        return Variables(params, statistics)

    def run(way: Way, variables: Variables, x: PyTree, key: Any) -> tuple[PyTree, PyTree]:
        drawn = _drawn_from(key, streams) if way.draws else streams
        copy = nnx.merge(graph_of(way, axes_in_scope()), *variables, drawn, rest, copy=True)
        return first(_WHO, copy(batch_of_one(x))), nnx.state(copy, nnx.BatchStat)

    def back(variables: Variables) -> Any:
        return nnx.merge(graph, *variables, streams, rest, copy=True)

    return Bridge(layer_of(_WHO, start, run, _HINT), back)


def _graph(nnx: Any, module: Any, way: Way, axes: tuple[str, ...]) -> Any:
    """The static part of a copy that is set to train, to calibrate or to infer."""
    copy = nnx.clone(module)
    copy.train() if way.draws else copy.eval()
    for _, part in nnx.iter_modules(copy):
        if isinstance(part, nnx.BatchNorm):
            require_axis(_WHO, "axis_name", part.axis_name)
            part.axis_name = axes
            part.use_running_average = part.use_running_average and not way.by_batch
    return nnx.split(copy)[0]


def _others(nnx: Any, module: Any, statistics: Any, rest: Any) -> list[str]:
    """The names of the variables that are neither parameters nor known statistics."""
    known = {path for path, part in nnx.iter_modules(module) if isinstance(part, nnx.BatchNorm)}
    states = [
        (path, leaf) for path, leaf in nnx.to_flat_state(rest) if isinstance(leaf, nnx.Variable)
    ]
    states += [
        (path, leaf) for path, leaf in nnx.to_flat_state(statistics) if path[:-1] not in known
    ]
    return [f"{type(leaf).__name__} {'.'.join(map(str, path))}" for path, leaf in states]


def _drawn_from(key: PRNGKeyArray, streams: PyTree) -> PyTree:
    """The streams of random numbers, each with a key of its own."""
    leaves, structure = jax.tree.flatten(streams)

    def drawn(number: int, leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.random.fold_in(key, number)

    return jax.tree.unflatten(structure, [drawn(*pair) for pair in enumerate(leaves)])
