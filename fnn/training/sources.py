"""Where the loop's value functions come from, and what is evaluated between rounds."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Scalar

from fnn.objective import Block, Objective, ValueFunction
from fnn.training.loop import Progress, Source
from fnn.training.streams import Batches

Metric = Callable[[PyTree, PyTree], Scalar]


class Weighted(NamedTuple):
    """Arrays of examples, each with a weight; in place of those of weight 0 there are others."""

    examples: PyTree
    weights: Float[Array, " n"]


def source_of(
    objective: Objective | Callable[[Array], ValueFunction] | None,
    data: PyTree,
    *,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
) -> Source:
    """The value functions that `fit` steps on.

    Args:
        objective: an `Objective`; a function of a key that returns a value function; or None, the
            data being a value function.
        data: arrays of examples, perhaps `Weighted`, a value function, or None.
        batch_size: examples in a batch; None is all of them. The last batch of an epoch is filled
            up with examples of weight 0.
        key: shuffles the examples anew in each epoch, and goes to the model if it takes a key.

    Returns:
        A source.

    Raises:
        ValueError: if value functions are to be drawn without a key.
    """
    if objective is None:
        return Source(1, lambda _: lambda _: data)
    if not isinstance(objective, Objective):
        if key is None:
            raise ValueError("fit: a function that draws value functions needs a key; pass key=")
        return Source(1, lambda epoch: lambda _: objective(jax.random.fold_in(key, epoch)))
    model_key = key if objective.takes_key else None
    n = len(jax.tree.leaves(data)[0])
    examples, weights = data if isinstance(data, Weighted) else (data, None)
    if batch_size is None or batch_size >= n:

        def whole(epoch: Array) -> ValueFunction:
            return _weighted(objective.on(examples, key=_fold(model_key, epoch)), weights)

        return Source(1, lambda epoch: lambda _: whole(epoch))
    steps = -(-n // batch_size)

    def epoch(number: Array) -> Callable[[Array], ValueFunction]:
        order = jnp.arange(n)
        if key is not None:  # a number of its own, apart from the model's keys
            order = shuffled(jax.random.fold_in(key, ~number), n)
        order = jnp.pad(order, (0, steps * batch_size - n), mode="edge")

        def value_fn_at(position: Array) -> ValueFunction:
            first = position * batch_size
            rows = jax.lax.dynamic_slice(order, (first,), (batch_size,))
            batch, own = jax.tree.map(
                lambda a: a.at[rows].get(mode="promise_in_bounds"), (examples, weights)
            )
            if n % batch_size:
                is_real = first + jnp.arange(batch_size, dtype=jnp.int32) < n
                own = jnp.where(is_real, 1.0 if own is None else own, 0.0)
            step_key = _fold(_fold(model_key, number), position)
            return _weighted(objective.on(batch, key=step_key), own)

        return value_fn_at

    return Source(steps, epoch)


def shuffled(key: Key[Array, ""], n: int) -> Int[Array, " n"]:
    """A random order of n examples, on CPUs in a third of the time of `jax.random.permutation`."""
    # XLA sorts bare whole numbers several times as fast as pairs, so the low bits of an example's
    # random number hold its place. Sorting again by other numbers, until three times as many random
    # bits were drawn as a place has, makes ties as rare as they are in `permutation`.
    width = max(1, (n - 1).bit_length())
    if width > 20:
        return jax.random.permutation(key, n)
    order = place = jnp.arange(n, dtype=jnp.uint32)
    for drawn in jax.random.bits(key, (-(-3 * width // (32 - width)), n), jnp.uint32):
        keyed = jax.lax.sort(drawn << width | place, is_stable=False)
        order = order.at[keyed & (2**width - 1)].get(mode="promise_in_bounds")
    return order.astype(jnp.int32)


def _fold(key: Array | None, number: int | Array) -> Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def _weighted(value_fn: ValueFunction, weights: Array | None) -> ValueFunction:
    """As `Objective.on` would with weights, less its guard: here padding is a real example."""
    if weights is None:
        return value_fn
    term, *penalties = value_fn.terms
    block = dataclasses.replace(term.block, weights=weights)
    return ValueFunction((term._replace(block=block), *penalties))


def chunked(value_fn: ValueFunction, chunk: int | None) -> ValueFunction:
    """The same function, of no more examples at a time than `chunk`."""
    if chunk is None:
        return value_fn
    return value_fn.map_blocks(
        lambda block: dataclasses.replace(block, chunk=chunk) if _at_once(block) > chunk else block
    )


def examples_at_once(value_fn: ValueFunction) -> int:
    """The most examples that are evaluated together; 0 where there are none."""
    return max(map(_at_once, value_fn.blocks), default=0)


def _at_once(block: Block) -> int:
    return min(block.count, block.chunk or block.count)


def evaluation_of(
    objective: Any,
    metrics: Iterable[tuple[str, Metric]],
    validation: PyTree,
    prepare: Callable[[PyTree], PyTree] | None = None,
    chunk: int | None = None,
) -> Callable[[Progress], dict[str, Scalar]]:
    """What is looked at after each round: the mean loss on validation data, and the metrics.

    Args:
        objective: an `Objective`; not needed where validation is a value function or None.
        metrics: names and functions of all outputs and targets.
        validation: data, a value function, or None.
        prepare: what is done to the parameters first, `layers.calibrate` for instance.
        chunk: the most examples whose losses are evaluated together.

    Returns:
        A function from the loop's carry to named scalars.
    """

    def evaluate(progress: Progress) -> dict[str, Scalar]:
        if validation is None:
            return {}
        params = progress.params if prepare is None else prepare(progress.params)
        if isinstance(validation, ValueFunction):
            return {"loss": chunked(validation, chunk)(params)}
        inputs, targets = (validation, None) if objective.loss is None else validation
        outputs = objective.outputs(params, inputs)
        loss = chunked(Objective(objective.model, objective.loss).on(validation), chunk)(params)
        scores = {name: _score(name, metric, outputs, targets) for name, metric in metrics}
        return {"loss": loss} | scores

    return evaluate


def _score(name: str, metric: Metric, outputs: PyTree, targets: PyTree) -> Scalar:
    """What a metric says, one number."""
    score = metric(outputs, targets)
    if not isinstance(score, Array | np.ndarray | np.generic | float | int) or jnp.ndim(score):
        got = f"shape {jnp.shape(score)}" if hasattr(score, "shape") else type(score).__name__
        raise TypeError(
            f"fit: expected the metric {name!r} to be one number of all outputs and targets, got "
            f"{got}; try jnp.mean of it, or a metric for each of its numbers"
        )
    return jnp.asarray(score)


def source_of_batches(
    objective: Objective, batches: Batches, *, first: int | Array, key: Key[Array, ""] | None
) -> Source:
    """The value functions of some batches of a stream, one epoch; `first` steps came before."""

    def value_fn_at(position: Array) -> ValueFunction:
        rows = jax.tree.map(jnp.asarray, (batches.examples, batches.weights))
        batch, weights = jax.tree.map(lambda a: a[position], rows)
        step_key = _fold(key if objective.takes_key else None, first + position)
        return _weighted(objective.on(batch, key=step_key), weights)

    return Source(len(batches.weights), lambda _: value_fn_at)
