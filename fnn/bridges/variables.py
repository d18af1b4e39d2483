"""What all bridges share: the variables, the three ways to run a module, and the layer of them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from fnn.layers import Layer, positions_in_scope
from fnn.names import EXAMPLES

Arguments = Callable[[bool], Mapping[str, Any]]

SETTLED = 1_000_000
"""What counters of updates are set to: at a decay of 0.9999 no trace of the beginning is left."""

_BATCH_NORM = {"scale", "bias", "mean", "var"}  # the leaves of a `layers.batch_norm`


class Variables(NamedTuple):
    """What a module of another framework holds.

    Attributes:
        params: the parameters that are trained, as the framework keeps them.
        statistics: the means and variances of its batch normalizations; no gradient reaches them.
    """

    params: PyTree
    statistics: PyTree


def has_statistics(params: PyTree) -> bool:
    """Whether parameters hold statistics of batch normalization, of `fnn.layers` or of a module."""
    nodes = jax.tree.leaves(params, is_leaf=_is_normalization)
    return any(map(_is_normalization, nodes))


def _is_normalization(node: Any) -> bool:
    if isinstance(node, Variables):
        return bool(jax.tree.leaves(node.statistics))
    return isinstance(node, Mapping) and set(node) >= _BATCH_NORM


class Bridge(NamedTuple):
    """A module of another framework as a layer, and the way back.

    Attributes:
        model: the layer. Its parameters are `Variables`.
        back: from `Variables` to what the framework itself calls.
    """

    model: Layer
    back: Callable[[Variables], Any]


class Way(NamedTuple):
    """How a module is run: in training both hold, in inference none."""

    by_batch: bool  # whether batch normalization takes the means over the examples
    draws: bool  # whether dropout is on


TRAINING, CALIBRATING, INFERENCE = Way(True, True), Way(True, False), Way(False, False)

Run = Callable[[Way, Variables, Any, Any], tuple[Any, PyTree]]
"""`run(way, variables, x, key) -> (outputs, statistics)` of one example."""


def layer_of(
    who: str, start: Callable[[PRNGKeyArray, PyTree], Variables], run: Run, hint: str
) -> Layer:
    """The layer of a module, from its first variables and from how it is run."""

    def init(key: PRNGKeyArray, x: PyTree) -> Variables:
        example = jax.tree.map(_zeros, x)
        with_reason = _told_by(who, example, hint)
        variables = with_reason(start, key, example)
        for way in (INFERENCE, TRAINING, CALIBRATING):
            with_reason(jax.eval_shape, _over_one(run, way), variables, example, key)
        return variables

    def apply(variables: PyTree, x: PyTree, *, key: PRNGKeyArray | None = None) -> PyTree:
        params, statistics = _require_variables(who, variables)
        fixed = Variables(params, jax.lax.stop_gradient(statistics))
        if key is not None and jax.tree.leaves(statistics):
            _require_examples(who)
        return run(INFERENCE if key is None else TRAINING, fixed, x, key)[0]

    def through(visit: Any, variables: PyTree, inputs: PyTree) -> tuple[Variables, PyTree]:
        del visit
        return settle(_require_variables(who, variables), inputs)

    @jax.jit
    def settle(variables: Variables, inputs: PyTree) -> tuple[Variables, PyTree]:
        variables = _settled(run, variables, inputs)
        return variables, jax.vmap(apply, (None, 0))(variables, inputs)

    return Layer(init, apply, who, through)


def _settled(run: Run, variables: Variables, inputs: PyTree) -> Variables:
    """The variables, with the statistics at which the module's own updates over `inputs` settle."""

    def update(statistics: PyTree) -> PyTree:
        def one(x: PyTree) -> PyTree:
            return run(CALIBRATING, Variables(variables.params, statistics), x, None)[1]

        updated = jax.vmap(one, axis_name=EXAMPLES)(inputs)
        return jax.tree.map(lambda leaf: leaf[0], updated)  # the same for each example

    def fixed_point(statistic: Array, part: Array, probe: Array, updated: Array) -> Array:
        rate = (updated - part) / probe
        settled = jnp.where(rate < 1, part / (1 - rate), statistic)  # at 1 nothing ever changes
        return settled.astype(statistic.dtype)

    if not jax.tree.leaves(variables.statistics):
        return variables
    # An update is rate * statistics + (1 - rate) * those of the batch, and nobody tells the rate.
    # A probe 1000 times the part of the batch shows it to the last digit; a derivative would not,
    # as nnx stops it.
    part = update(jax.tree.map(jnp.zeros_like, variables.statistics))
    probe = jax.tree.map(lambda leaf: 1024 * jnp.maximum(jnp.abs(leaf), 1), part)
    settled = jax.tree.map(fixed_point, variables.statistics, part, probe, update(probe))
    return Variables(variables.params, settled)


def _over_one(run: Run, way: Way) -> Callable[..., PyTree]:
    """A run in the scope of the examples, of which there is one."""

    def traced(variables: Variables, x: PyTree, key: PRNGKeyArray) -> PyTree:
        def one(x: PyTree) -> PyTree:
            return run(way, variables, x, key if way.draws else None)

        return jax.vmap(one, axis_name=EXAMPLES)(jax.tree.map(lambda leaf: leaf[None], x))

    return traced


def _zeros(leaf: Any) -> Array:
    return jnp.zeros(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


# Errors -------------------------------------------------------------------------------------------


def require_axis(who: str, argument: str, name: Any) -> None:
    """Refuses batch normalization over another axis than that of the examples."""
    names = name if isinstance(name, tuple | list) else (name,)
    if not set(names) <= {None, EXAMPLES}:
        raise ValueError(
            f"{who}: expected batch normalization over the axis {EXAMPLES!r}, which is that of an "
            f"objective's examples, got {argument}={name!r}; try {argument}={EXAMPLES!r}"
        )


def require_statistics(who: str, others: list[str]) -> None:
    """Refuses state that is not that of batch normalization."""
    if others:
        raise ValueError(
            f"{who}: expected no state but that of the framework's own batch normalization, got "
            f"{', '.join(sorted(others))}; fit hands no state from one step to the next, so try a "
            "module without it, or hold it fixed: a function (params, x) -> outputs that reads it"
        )


def axes_in_scope() -> tuple[str, ...]:
    """The axes of the means of batch normalization: the examples, and the positions of `each`."""
    return (EXAMPLES, *positions_in_scope())


def told_otherwise(
    method: Callable[..., Any], args: tuple, kwargs: dict, name: str, value: Any
) -> tuple[tuple, dict]:
    """A call's arguments with another value of one; as they are where a method takes none so."""
    signature = inspect.signature(method)
    if name not in signature.parameters:
        return args, kwargs
    bound = signature.bind(*args, **kwargs)
    bound.arguments[name] = value
    return bound.args, bound.kwargs


def batch_of_one(x: PyTree) -> PyTree:
    """An example as a batch."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x)


def first(who: str, outputs: PyTree) -> PyTree:
    """The only answer of a module that was given a batch of one."""
    for path, leaf in jax.tree.leaves_with_path(outputs):
        if jnp.shape(leaf)[:1] != (1,):
            raise ValueError(
                f"{who}: expected a module of batches, (1, ...) to (1, ...), got outputs"
                f"{jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)} for a batch of one; try "
                "a first axis that counts the examples in the module, and one example to init"
            )
    return jax.tree.map(lambda leaf: leaf[0], outputs)


def _require_variables(who: str, variables: PyTree) -> Variables:
    if not isinstance(variables, Variables):
        raise TypeError(
            f"{who}: expected Variables(params, statistics), got {type(variables).__name__}; try "
            "model.init(key, x), or Variables of both as the framework keeps them"
        )
    return variables


def _require_examples(who: str) -> None:
    try:
        jax.lax.axis_size(EXAMPLES)
    except NameError:
        raise ValueError(
            f"{who}: expected the axis name {EXAMPLES!r}, got a key (training) outside of "
            f"jax.vmap(..., axis_name={EXAMPLES!r}); call the model through Objective.on, or "
            "without a key"
        ) from None


def _told_by(who: str, x: PyTree, hint: str) -> Callable[..., Any]:
    """Calls a function; what a framework raises in it is told by the bridge."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            if str(error).startswith(f"{who}: "):
                raise
            shapes = ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(x))
            raise TypeError(
                f"{who}: expected a module that takes one example, of shape {shapes}, in training "
                f"and in inference, got {type(error).__name__}: {error}; try {hint}"
            ) from error

    return call
