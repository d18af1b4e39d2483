"""A module of flax's linen as a layer."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PRNGKeyArray, PyTree

from fnn.bridges.variables import (
    CALIBRATING,
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
from fnn.requirements import load

_WHO = "from_flax"
_HINT = (
    "from_flax(module, lambda training: {'train': training}), with the arguments by which the "
    "module is told; and one example for init"
)


def from_flax(module: Any, arguments: Arguments = lambda _: {}) -> Bridge:
    """A module of flax's linen as a layer.

    The module is called as its own users call it, on a batch (of one), with `mutable` and `rngs`
    as training and inference need them.

    Args:
        module: a `flax.linen.Module`, not bound.
        arguments: `arguments(training) -> keyword arguments` by which the module is told training
            from inference, such as `lambda training: {"train": training}`.

    Returns:
        A bridge. `init` makes new variables, and refuses collections other than "params", and
        "batch_stats" of modules that are no `BatchNorm`. `back` gives the dictionary that
        `module.apply` takes.

    Raises:
        TypeError: if it is no module of linen.

    Example:
        >>> import flax.linen as nn
        >>> import jax, jax.numpy as jnp
        >>> from fnn import layers
        >>> module = nn.BatchNorm()
        >>> model, back = from_flax(module, lambda training: {"use_running_average": not training})
        >>> inputs = jnp.array([[1.0], [3.0]])
        >>> params = model.init(jax.random.key(0), inputs[0])
        >>> params = layers.calibrate(model, params, inputs)
        >>> module.apply(back(params), inputs, use_running_average=True).round(2).tolist()
        [[-1.0], [1.0]]
    """
    linen = load(_WHO, "flax.linen")
    if not isinstance(module, linen.Module):
        raise TypeError(
            f"{_WHO}: expected a module of flax.linen, got {type(module).__name__}; try from_nnx, "
            "from_equinox or from_haiku for what is theirs"
        )

    def start(key: PRNGKeyArray, x: PyTree) -> Variables:
        norms: set[tuple[str, ...]] = set()
        with linen.intercept_methods(_noting(linen.BatchNorm, norms)):
            made = module.init({"params": key}, batch_of_one(x), **arguments(False))
        others = set(made) - {"params", "batch_stats"}
        statistics = made.get("batch_stats", {})
        for path, _ in jax.tree.leaves_with_path(statistics):
            *place, name = (entry.key for entry in path)
            if tuple(place) not in norms or name not in {"mean", "var"}:
                others.add(f"batch_stats{jax.tree_util.keystr(path)}")
        require_statistics(_WHO, list(others))
        return Variables(made.get("params", {}), statistics)

    def run(way: Way, variables: Variables, x: PyTree, key: Any) -> tuple[PyTree, PyTree]:
        # Other streams than that of dropout are drawn from "params", as linen does it; with the
        # same key they would be the same numbers.
        rngs = {"params": jax.random.fold_in(key, 1), "dropout": key} if way.draws else None
        with linen.intercept_methods(_normalizing(linen.BatchNorm, way)):
            outputs, changed = module.apply(
                back(variables),
                batch_of_one(x),
                rngs=rngs,
                mutable=["batch_stats"] if way.by_batch else [],
                **arguments(way.draws),
            )
        return first(_WHO, outputs), changed.get("batch_stats", variables.statistics)

    def back(variables: Variables) -> dict[str, PyTree]:
        collections = {"params": variables.params, "batch_stats": variables.statistics}
        return {name: tree for name, tree in collections.items() if jax.tree.leaves(tree)}

    return Bridge(layer_of(_WHO, start, run, _HINT), back)


def _noting(batch_norm: type, norms: set[tuple[str, ...]]) -> Callable[..., Any]:
    """An interceptor that notes where batch normalization is."""

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        if isinstance(context.module, batch_norm):
            norms.add(context.module.path)
        return call(*args, **kwargs)

    return intercept


def _normalizing(batch_norm: type, way: Way) -> Callable[..., Any]:
    """An interceptor by which batch normalization takes its means over the examples."""

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
        norm = context.module
        if not isinstance(norm, batch_norm) or context.method_name != "__call__":
            return call(*args, **kwargs)
        require_axis(_WHO, "axis_name", norm.axis_name)
        kept = norm.axis_name, norm.use_running_average
        object.__setattr__(norm, "axis_name", axes_in_scope())  # modules are frozen dataclasses
        if way == CALIBRATING:
            object.__setattr__(norm, "use_running_average", None)
            args, kwargs = told_otherwise(
                context.orig_method, args, kwargs, "use_running_average", False
            )
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(norm, "axis_name", kept[0])
            object.__setattr__(norm, "use_running_average", kept[1])

    return intercept
