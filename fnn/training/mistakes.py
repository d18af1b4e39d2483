"""Mistakes that pass in silence: what `fit` was given fits together, and means something else.

What is certainly wrong raises; what may be meant warns. All of it is read off shapes, the traced
program of the model for one example (kept for the next call), and the labels.
"""

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from fnn import losses
from fnn.bridges import Variables, has_statistics
from fnn.objective import Objective
from fnn.training.door import door

_OF_LABELS = {
    losses.softmax_cross_entropy,
    optax.losses.softmax_cross_entropy_with_integer_labels,
}
_OF_LOGITS = _OF_LABELS | {losses.kl, optax.losses.softmax_cross_entropy}
_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def warn_of_mistakes(
    objective: Objective, params: PyTree, examples: PyTree, key: Array | None, batch_size: Any
) -> None:
    """Looks at what the model makes of one example, and at keys and batches.

    Args:
        objective: an objective.
        params: the parameters.
        examples: what the objective takes, all of them or a batch.
        key: the key of the training.
        batch_size: examples in a batch; None without mini-batches of arrays.
    """
    inputs, targets = (examples, None) if objective.loss is None else examples
    count = len(jax.tree.leaves(examples)[0])
    if batch_size is not None and batch_size > count:
        warn(f"batch_size = {batch_size} is above the number of examples, {count}, and cuts none")
    elif batch_size is not None and key is None:
        warn(
            "without a key the mini-batches are the same in every epoch; pass "
            "key=jax.random.key(0), which shuffles them"
        )
    _look_at_statistics(params)
    model = _traced(objective.model, _spec(params), _spec(inputs, 1), objective.takes_key)
    if model is None:
        return
    _look_at_keys(objective, model, key, batch_size)
    if objective.loss is None:
        _look_at_residual(model.outputs)
    else:
        _look_at_loss(objective, model, targets)


def require_labels(objective: Objective, params: PyTree, examples: PyTree) -> None:
    """Raises where a label is none of the classes that the model tells apart.

    Args:
        objective: an objective.
        params: the parameters.
        examples: inputs and targets.

    Raises:
        ValueError: naming the first such label and its index.
    """
    if objective.loss not in _OF_LABELS:
        return
    inputs, targets = examples
    if not _is_integer(targets) or not getattr(targets, "is_fully_addressable", True):
        return
    model = _traced(objective.model, _spec(params), _spec(inputs, 1), objective.takes_key)
    shapes = [] if model is None else jax.tree.leaves(model.outputs)
    if len(shapes) != 1 or not shapes[0].shape:
        return
    classes, labels = shapes[0].shape[-1], np.asarray(targets)
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        index = tuple(map(int, np.unravel_index(int(outside.argmax()), labels.shape)))
        raise ValueError(
            f"fit: expected labels from 0 to {classes - 1}, since the model has {classes} outputs, "
            f"got {labels[index]} at index {index[0] if len(index) == 1 else index} of the "
            f"targets ({int(outside.sum())} of {labels.size} are outside); try to count classes "
            "from 0, or a last layer of more units"
        )


def require_labels_of_batches(objective: Objective, params: PyTree, batches: PyTree) -> None:
    """The same of batches stacked along a first axis, looked at only where there are labels.

    Args:
        objective: an objective.
        params: the parameters.
        batches: inputs and targets, batches first.
    """
    if objective.loss in _OF_LABELS:
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batches)
        require_labels(objective, params, rows)


def require_prepared(
    params: PyTree, key: Array | None, validation: PyTree, prepare: Callable | None
) -> None:
    """Raises where batch normalization would be validated by the statistics it began with.

    Args:
        params: the parameters.
        key: the key of the training, without which batch normalization is not trained.
        validation: the validation data.
        prepare: what is done to the parameters before.

    Raises:
        ValueError: naming `prepare`.
    """
    if key is None or validation is None or prepare is not None:
        return
    if has_statistics(params):
        raise ValueError(
            "fit: expected prepare= with validation data and batch normalization, got none: the "
            "statistics for inference would be those before training; try prepare=lambda params: "
            "layers.calibrate(model, params, inputs)"
        )


def warn(what: str) -> None:
    """Warns of something at the line outside of fnn from which it was called, however far that is.

    Args:
        what: a sentence without its period.
    """
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{door()}: {what}.", stacklevel=level)


# What is looked at --------------------------------------------------------------------------------


def _look_at_keys(
    objective: Objective, model: "_Traced", key: Array | None, batch_size: int | None
) -> None:
    """A model that draws and gets no key, and a key that nothing reads."""
    if key is None and model.draws:
        warn(
            "the model draws random numbers and gets no key, so that dropout and the like are off; "
            "pass key=jax.random.key(0); or, where they are meant to be off, the model "
            "lambda params, x: model(params, x)"
        )
    if key is not None and batch_size is None and not objective.takes_key:
        names = set(_parameters(objective.model)) & {"rng", "rngs", "prng", "rng_key"}
        other = f"; the model calls it {names.pop()!r}, and has to call it 'key'" if names else ""
        warn(f"nothing reads the key: there are no mini-batches, and the model takes none{other}")


def _look_at_statistics(params: PyTree) -> None:
    """Statistics that flax keeps beside the parameters would be trained, down gradients."""

    def is_whole(node: Any) -> bool:
        return _is_bridged(node) or _is_statistic(node)

    is_linen = isinstance(params, Mapping) and {"params", "batch_stats"} <= set(params)
    if is_linen or any(map(_is_statistic, jax.tree.leaves(params, is_leaf=is_whole))):
        warn(
            "params hold the statistics of batch normalization, which would be trained like "
            "weights; try bridges.from_flax or bridges.from_nnx, or close over them, and pass "
            "variables['params'] or nnx.state(module, nnx.Param)"
        )


def _is_statistic(node: Any) -> bool:
    return type(node).__name__ == "BatchStat"


def _is_bridged(node: Any) -> bool:
    return isinstance(node, Variables)


def _look_at_residual(outputs: PyTree) -> None:
    """All that a model without a loss returns is squared and summed."""
    for path, leaf in jax.tree.leaves_with_path(outputs):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                "fit: expected residuals of floating point, got outputs"
                f"{jax.tree_util.keystr(path)} of {leaf.dtype}; an objective without a loss sums "
                "the squares of all outputs, so return what is auxiliary elsewhere"
            )
    if type(outputs) is tuple and len(outputs) == 2:
        warn(
            "the model returns a pair, and an objective without a loss sums the squares of both; "
            "if the second is auxiliary, leave it out; if both are residuals, return a dictionary"
        )


def _look_at_loss(objective: Objective, model: "_Traced", targets: PyTree) -> None:
    """Logits that are probabilities already, and shapes that broadcast against each other."""
    loss: Any = objective.loss
    if loss in _OF_LOGITS and model.ends_in_softmax:
        warn(
            f"the model ends in a softmax, and {loss.__name__} takes logits: it would be taken "
            "twice; leave it out of the model"
        )
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves((model.outputs, _spec(targets, 1)))]
    if loss in _OF_LABELS or len(shapes) != 2 or _is_integer(targets):
        return
    try:
        together = np.broadcast_shapes(*shapes)
    except ValueError:
        return
    if np.prod(together) > max(map(np.prod, shapes)):
        warn(
            f"outputs of shape {list(shapes[0])} and targets of shape {list(shapes[1])} broadcast "
            f"to {list(together)}: every output meets every target; give them one shape"
        )


class _Traced(NamedTuple):
    """What is known of a model from its program for one example."""

    outputs: PyTree  # of shapes and dtypes
    draws: bool  # whether it reads its key
    ends_in_softmax: bool


@functools.lru_cache(maxsize=256)
def _traced_of(model: Any, structure: Any, leaves: tuple, takes_key: bool) -> _Traced | None:
    """The program of a model, or None where it cannot be traced without the loop around it."""
    params, x = jax.tree.unflatten(structure, leaves)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def call(params: PyTree, x: PyTree, key: Array) -> PyTree:
        return model(params, x, key=key) if takes_key else model(params, x)

    try:
        outputs = jax.eval_shape(lambda params, x: model(params, x), params, x)
        program = jax.make_jaxpr(lambda params, x: model(params, x))(params, x).jaxpr
        ends = _ends_in_softmax(program)
        drawing = jax.make_jaxpr(call)(params, x, key).jaxpr if takes_key else program
    except Exception:  # the step that is compiled in a moment says it better
        return None
    draws = takes_key and _reaches_outputs(drawing, drawing.invars[-1])
    return _Traced(outputs, draws, ends)


def _traced(model: Any, params: PyTree, x: PyTree, takes_key: bool) -> _Traced | None:
    leaves, structure = jax.tree.flatten((params, x))
    return _traced_of(model, structure, tuple(leaves), takes_key)


def _reaches_outputs(program: jex.Jaxpr, *numbers: Any) -> bool:
    """Whether an output is made of one of the numbers, by calls and scans that are looked into."""
    made_of = set(map(id, numbers))
    for eqn in program.eqns:
        if _passes_on(eqn, [id(v) in made_of for v in eqn.invars]):
            made_of.update(map(id, eqn.outvars))
    return any(id(v) in made_of for v in program.outvars)


def _passes_on(eqn: jex.JaxprEqn, is_made: list[bool]) -> bool:
    """Whether what an equation makes may depend on those of its operands that are marked."""
    # A scan is handed a key for each step, which cells that draw nothing leave alone.
    inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or len(inner.invars) != len(is_made):
        return any(is_made)
    made = [v for v, made in zip(inner.invars, is_made, strict=True) if made]
    return bool(made) and _reaches_outputs(inner, *made)


def _ends_in_softmax(program: jex.Jaxpr) -> bool:
    """Whether the output is a quotient of exponentials, by calls that are looked into."""
    makers = {id(v): eqn for eqn in program.eqns for v in eqn.outvars}
    eqn = makers.get(id(program.outvars[-1])) if program.outvars else None
    if eqn is None:
        return False
    inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
    if inner is not None:
        return _ends_in_softmax(getattr(inner, "jaxpr", inner))
    if eqn.primitive.name != "div":
        return False
    above = makers.get(id(eqn.invars[0]))
    return above is not None and above.primitive.name == "exp"


def _spec(tree: PyTree, axes: int = 0) -> PyTree:
    """Shapes and dtypes, without so many leading axes."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[axes:], jnp.result_type(leaf)), tree
    )


def _is_integer(targets: PyTree) -> bool:
    leaves = jax.tree.leaves(targets)
    return len(leaves) == 1 and jnp.issubdtype(jnp.result_type(leaves[0]), jnp.integer)


def _parameters(model: Any) -> list[str]:
    try:
        return list(inspect.signature(model).parameters)
    except (TypeError, ValueError):  # built-in callables have no signature
        return []
