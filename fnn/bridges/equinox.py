"""A module of equinox as a layer."""

import copy
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from fnn.bridges.variables import (
    CALIBRATING,
    INFERENCE,
    SETTLED,
    TRAINING,
    Bridge,
    Variables,
    Way,
    axes_in_scope,
    layer_of,
    require_axis,
    require_statistics,
)
from fnn.requirements import load

_WHO = "from_equinox"
_HINT = (
    "module(x, state, key=key) -> (outputs, state) of one example, or module(x, key=key) -> "
    "outputs of a module without state; and one example for init"
)


def from_equinox(module: Any, state: Any = None) -> Bridge:
    """A module of equinox as a layer.

    The module is called on one example, `module(x, state, key=key)` or `module(x, key=key)`; `key`
    is left out where the module takes none, by this name or among others (`**kwargs`). A ValueError
    refuses state that is missing or is not that of `BatchNorm(mode="batch")` over the axis
    `examples`. (In the mode "ema" the outputs of training depend on all earlier batches, which no
    function of one batch knows.)

    Args:
        module: an `equinox.Module`.
        state: its `equinox.nn.State`, of `module, state = eqx.nn.make_with_state(...)(...)`; None
            of a module without state.

    Returns:
        A bridge. `init` returns the module's own variables, whatever its key. `back` gives the pair
        of module and state, whose counters of updates are so high that nothing is corrected for a
        first time.

    Raises:
        TypeError: if it is no module of equinox, or one that cannot be called.

    Example:
        >>> import equinox as eqx
        >>> import jax, jax.numpy as jnp
        >>> from fnn import layers
        >>> module, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(1, "examples", mode="batch")
        >>> model, back = from_equinox(module, state)
        >>> inputs = jnp.array([[1.0], [3.0]])
        >>> params = model.init(jax.random.key(0), inputs[0])
        >>> module, state = back(layers.calibrate(model, params, inputs))
        >>> module(inputs[0], state, inference=True)[0].round(2).tolist()
        [-1.0]
    """
    eqx = load(_WHO, "equinox")
    if not isinstance(module, eqx.Module):
        raise TypeError(
            f"{_WHO}: expected a module of equinox, got {type(module).__name__}; try from_flax, "
            "from_nnx or from_haiku for what is theirs"
        )
    if not callable(module):
        raise TypeError(
            f"{_WHO}: expected a module that can be called, got {type(module).__name__}, which has "
            "no __call__; try a module around it that has"
        )
    _require_batch_norm(eqx, module, state)
    params, static = eqx.partition(module, eqx.is_inexact_array)
    statistics, counters = eqx.partition(state, eqx.is_inexact_array)
    counters = jax.tree.map(lambda leaf: jnp.full_like(leaf, SETTLED), counters)
    statics = {
        way: eqx.partition(_set_to(eqx, module, way), eqx.is_inexact_array)[1]
        for way in (TRAINING, CALIBRATING, INFERENCE)
    }
    takes_key = _takes_key(module)

    def start(key: PRNGKeyArray, x: PyTree) -> Variables:
        del key, x
        return Variables(params, statistics)

    def run(way: Way, variables: Variables, x: PyTree, key: Any) -> tuple[PyTree, PyTree]:
        call = _averaging(eqx, eqx.combine(variables.params, statics[way]), axes_in_scope())
        named = {"key": key} if takes_key else {}
        if state is None:
            return call(x, **named), None
        outputs, changed = call(x, eqx.combine(variables.statistics, counters), **named)
        return outputs, eqx.filter(changed, eqx.is_inexact_array)

    def back(variables: Variables) -> tuple[Any, Any]:
        return eqx.combine(variables.params, static), eqx.combine(variables.statistics, counters)

    return Bridge(layer_of(_WHO, start, run, _HINT), back)


def _norms(eqx: Any, module: Any) -> list[Any]:
    """The batch normalizations in a module, and what else has state."""
    kinds = eqx.nn.BatchNorm, eqx.nn.StateIndex
    leaves = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds)]


def _require_batch_norm(eqx: Any, module: Any, state: Any) -> None:
    """Refuses state that is missing, and state that is not that of the batch."""
    norms = _norms(eqx, module)
    if norms and state is None:
        raise ValueError(
            f"{_WHO}: expected the state of a module that has some, got None; try module, state = "
            "eqx.nn.make_with_state(Module)(...), and from_equinox(module, state)"
        )
    others = [type(norm).__name__ for norm in norms if not isinstance(norm, eqx.nn.BatchNorm)]
    require_statistics(_WHO, others)
    for norm in norms:
        require_axis(_WHO, "axis_name", norm.axis_name)
        if norm.mode != "batch":
            raise ValueError(
                f"{_WHO}: expected BatchNorm(..., mode='batch'), got mode={norm.mode!r}, whose "
                "outputs in training depend on all batches before; try mode='batch'"
            )


def _takes_key(module: Any) -> bool:
    """Whether a module may be called with `key=...`."""
    parameters = inspect.signature(module).parameters.values()
    return any(p.name == "key" or p.kind == p.VAR_KEYWORD for p in parameters)


def _averaging(eqx: Any, module: Any, axes: tuple[str, ...]) -> Any:
    """The module, whose batch normalizations take their means over these axes."""
    norms = [copy.copy(norm) for norm in _norms(eqx, module)]
    for norm in norms:
        object.__setattr__(norm, "axis_name", axes)  # modules are frozen dataclasses
    return eqx.tree_at(lambda tree: _norms(eqx, tree), module, norms) if norms else module


def _set_to(eqx: Any, module: Any, way: Way) -> Any:
    """The module, set to train, to calibrate or to infer."""
    module = eqx.nn.inference_mode(module, value=not way.draws)
    norms = _norms(eqx, module)
    if not norms:
        return module
    flags = [not way.by_batch] * len(norms)
    return eqx.tree_at(lambda tree: [norm.inference for norm in _norms(eqx, tree)], module, flags)
