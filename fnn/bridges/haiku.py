"""A transformed function of haiku as a layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from fnn.bridges.variables import (
    CALIBRATING,
    SETTLED,
    TRAINING,
    Arguments,
    Bridge,
    Variables,
    Way,
    axes_in_scope,
    batch_of_one,
    first,
    layer_of,
    require_axis,
    require_statistics,
    told_otherwise,
)
from fnn.names import EXAMPLES
from fnn.requirements import load

_WHO = "from_haiku"
_HINT = (
    "from_haiku(net, lambda training: {'is_training': training}), with the arguments by which the "
    "function is told; and one example for init"
)


def from_haiku(net: Any, arguments: Arguments = lambda _: {}) -> Bridge:
    """A transformed function of haiku as a layer.

    The function is called as its own users call it, on a batch (of one).

    Args:
        net: what `hk.transform_with_state` or `hk.transform` made.
        arguments: `arguments(training) -> keyword arguments` by which the function is told training
            from inference, such as `lambda training: {"is_training": training}`.

    Returns:
        A bridge. `init` makes new variables, and refuses state that is not that of `hk.BatchNorm`.
        `back` gives the pair of parameters and state that `net.apply` takes.

    Raises:
        TypeError: if it is not transformed.

    Example:
        >>> import haiku as hk
        >>> import jax, jax.numpy as jnp
        >>> from fnn import layers
        >>> net = hk.transform_with_state(
        ...     lambda x, is_training: hk.BatchNorm(True, True, 0.99)(x, is_training)
        ... )
        >>> model, back = from_haiku(net, lambda training: {"is_training": training})
        >>> inputs = jnp.array([[1.0], [3.0]])
        >>> params = model.init(jax.random.key(0), inputs[0])
        >>> params, state = back(layers.calibrate(model, params, inputs))
        >>> net.apply(params, state, None, inputs, is_training=False)[0].round(2).tolist()
        [[-1.0], [1.0]]
    """
    hk = load(_WHO, "haiku")
    if isinstance(net, hk.Transformed):
        net = hk.with_empty_state(net)
    if not isinstance(net, hk.TransformedWithState):
        raise TypeError(
            f"{_WHO}: expected a transformed function, got {type(net).__name__}; try "
            "hk.transform_with_state(function)"
        )

    def start(key: PRNGKeyArray, x: PyTree) -> Variables:
        known: set[str] = set()

        def made(x: PyTree) -> PyTree:
            with hk.intercept_methods(_normalizing(hk.BatchNorm, TRAINING, known)):
                return net.init(key, batch_of_one(x), **arguments(True))

        each = jax.vmap(made, axis_name=EXAMPLES)(batch_of_one(x))
        params, state = jax.tree.map(lambda leaf: leaf[0], each)
        require_statistics(_WHO, list(set(state) - known))
        return Variables(params, _without_counters(state))

    def run(way: Way, variables: Variables, x: PyTree, key: Any) -> tuple[PyTree, PyTree]:
        with hk.intercept_methods(_normalizing(hk.BatchNorm, way)):
            outputs, state = net.apply(
                *back(variables), key, batch_of_one(x), **arguments(way.draws)
            )
        return first(_WHO, outputs), _without_counters(state)

    def back(variables: Variables) -> tuple[PyTree, PyTree]:
        counter = jnp.array(SETTLED, jnp.int32)
        state = {name: {"counter": counter, **own} for name, own in variables.statistics.items()}
        return variables.params, state

    return Bridge(layer_of(_WHO, start, run, _HINT), back)


def _without_counters(state: Any) -> dict[str, dict[str, Any]]:
    """The averages in a state, without how often they were updated."""
    return {
        module: {name: leaf for name, leaf in own.items() if name != "counter"}
        for module, own in state.items()
    }


def _normalizing(batch_norm: type, way: Way, known: set[str] | None = None) -> Callable[..., Any]:
    """An interceptor by which batch normalization takes its means over the examples.

    Returns:
        The interceptor, which puts the names of the averages into `known`.
    """

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        norm = context.module
        if isinstance(norm, batch_norm) and context.method_name == "__call__":
            require_axis(_WHO, "cross_replica_axis", norm.cross_replica_axis)
            norm.cross_replica_axis = axes_in_scope()
            if known is not None:
                known.update((norm.mean_ema.module_name, norm.var_ema.module_name))
            if way == CALIBRATING:
                args, kwargs = told_otherwise(
                    context.orig_method, args, kwargs, "is_training", True
                )
        return call(*args, **kwargs)

    return intercept
