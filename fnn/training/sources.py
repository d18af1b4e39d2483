"""Where the loop's value functions come from, and what is evaluated between rounds."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Scalar

from fnn.objective import Block as Examples
from fnn.objective import Objective, ValueFunction
from fnn.training.loop import Progress, Source

Metric = Callable[[PyTree, PyTree], Scalar]


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
        data: arrays of examples, a value function, or None.
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
    if batch_size is None or batch_size >= n:
        return Source(1, lambda epoch: lambda _: objective.on(data, key=_fold(model_key, epoch)))
    steps = -(-n // batch_size)

    def epoch(number: Array) -> Callable[[Array], ValueFunction]:
        order = jnp.arange(n)
        if key is not None:  # a number of its own, apart from the model's keys
            order = shuffled(jax.random.fold_in(key, ~number), n)
        order = jnp.pad(order, (0, steps * batch_size - n), mode="edge")

        def value_fn_at(position: Array) -> ValueFunction:
            first = position * batch_size
            rows = jax.lax.dynamic_slice(order, (first,), (batch_size,))
            batch = jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), data)
            weights = None
            if n % batch_size:
                weights = jnp.where(first + jnp.arange(batch_size, dtype=jnp.int32) < n, 1.0, 0.0)
            step_key = _fold(_fold(model_key, number), position)
            return _weighted(objective.on(batch, key=step_key), weights)

        return value_fn_at

    return Source(steps, epoch)


def shuffled(key: Key[Array, ""], n: int) -> Int[Array, " n"]:
    """A random order of n examples, on CPUs in a third of the time of `jax.random.permutation`.

    XLA sorts bare whole numbers several times as fast as pairs, so the place of an example is kept
    in the low bits of its random number. Sorting again by other numbers, until three times as many
    random bits have been drawn as a place has, makes ties as rare as they are there.

    Args:
        key: of the order.
        n: how many.

    Returns:
        Each number from 0 to n - 1 once.
    """
    width = max(1, (n - 1).bit_length())
    if width > 20:
        return jax.random.permutation(key, n)
    order = place = jnp.arange(n, dtype=jnp.uint32)
    for drawn in jax.random.bits(key, (-(-3 * width // (32 - width)), n), jnp.uint32):
        keyed = jax.lax.sort(drawn << width | place, is_stable=False)
        order = order.at[keyed & (2**width - 1)].get(mode="promise_in_bounds")
    return order.astype(jnp.int32)


def changed(source: Source, change: Callable[[ValueFunction], ValueFunction]) -> Source:
    """A source whose value functions are changed, each when its step comes.

    Args:
        source: of value functions, as those of this module are.
        change: what is done to each.

    Returns:
        A source of as many steps.
    """

    def epoch(number: Array) -> Callable[[Array], ValueFunction]:
        value_fn_at: Any = source.epoch(number)
        return lambda position: change(value_fn_at(position))

    return Source(source.steps, epoch)


def _fold(key: Array | None, number: int | Array) -> Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def _weighted(value_fn: ValueFunction, weights: Array | None) -> ValueFunction:
    """As `Objective.on` would with weights, less its guard: here padding is a real example."""
    term, *penalties = value_fn.terms
    block = dataclasses.replace(term.block, weights=weights)
    return ValueFunction((term._replace(block=block), *penalties))


def chunked(value_fn: ValueFunction, chunk: int | None) -> ValueFunction:
    """The same function, of no more examples at a time than `chunk`.

    Args:
        value_fn: a value function.
        chunk: the most examples; None leaves it as it is.

    Returns:
        A value function.
    """
    if chunk is None:
        return value_fn
    terms = (
        term._replace(block=dataclasses.replace(term.block, chunk=chunk))
        if isinstance(term.block, Examples) and examples_at_once(term.block) > chunk
        else term
        for term in value_fn.terms
    )
    return ValueFunction(tuple(terms))


def examples_at_once(value_fn: ValueFunction | Examples) -> int:
    """The most examples that are evaluated together.

    Args:
        value_fn: a value function, or a block of one.

    Returns:
        Their number; 0 where there are none.
    """
    if isinstance(value_fn, Examples):
        return min(value_fn.count, value_fn.chunk or value_fn.count)
    blocks = (term.block for term in value_fn.terms)
    return max((examples_at_once(b) for b in blocks if isinstance(b, Examples)), default=0)


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
        return {"loss": loss} | {name: metric(outputs, targets) for name, metric in metrics}

    return evaluate


class Position(NamedTuple):
    """Where training is in a stream of batches.

    Attributes:
        passes: through the batches that lie behind.
        batches: of the next pass that lie behind.
        examples: in the first batch of that pass; 0 before it.
        value: summed over the steps since the last look.
        steps: since the last look.
        state: of the iterator, where it has `get_state` and `set_state`, as Grain's have.
    """

    passes: int = 0
    batches: int = 0
    examples: int = 0
    value: float = 0.0
    steps: int = 0
    state: Any = None


def iterator_at(data: Iterable[PyTree], position: Position) -> Iterator[PyTree]:
    """The batches that come next.

    An iterator that can tell its state is set to it. Any other is gone through again from the very
    beginning, since what it gives may depend on how often it was asked; a list is not.

    Args:
        data: a fresh iterable, the one that the position is in.
        position: where to go on.

    Returns:
        An iterator.

    Raises:
        ValueError: if there are fewer batches than lie behind.
    """
    iterator: Any = iter(data)
    if position.state is not None:
        iterator.set_state(position.state)
        return iterator
    if not isinstance(data, Sequence) and not hasattr(iterator, "set_state"):
        for _ in range(position.passes):
            collections.deque(iterator, maxlen=0)
            iterator = iter(data)
    taken = sum(1 for _ in itertools.islice(iterator, position.batches))
    if taken < position.batches:
        raise ValueError(
            f"fit: expected the batches of the first call, {position.batches} of which lie behind "
            f"in this pass, got {taken}; try a fresh iterator over the same data"
        )
    return iterator


class Block(NamedTuple):
    """Some batches of a stream, stacked and filled up to one shape; the first `used` are real."""

    used: int
    batches: PyTree
    weights: Float[np.ndarray, "batches examples"]


_BYTES = 2**26  # of batches stacked together
_BATCHES = 32  # stacked together, at most


def blocks_of(batches: Iterator[PyTree], examples: int = 0) -> Iterator[Block]:
    """Stacks the batches of a stream.

    Args:
        batches: trees of arrays whose first axis counts the examples, none larger than the first
            batch. A smaller one is filled up by its last example at weight 0.
        examples: in the first batch, where that lies behind.

    Yields:
        Blocks of up to 32 batches or 64 MiB, all of one shape. A batch that is empty, larger than
        the first, or of arrays that disagree is a ValueError.
    """
    first = next(batches, None)
    if first is None:
        return
    leaves = jax.tree.leaves(first)
    n = examples or len(leaves[0])
    size = sum(np.asarray(leaf).nbytes for leaf in leaves) // max(len(leaves[0]), 1) * n
    size = min(_BATCHES, max(1, _BYTES // max(size, 1)))
    batches = itertools.chain([first], batches)
    while group := list(itertools.islice(batches, size)):
        lengths = [_length(batch, n) for batch in group]
        used = len(group)
        group += group[-1:] * (size - used)
        lengths += lengths[-1:] * (size - used)
        filled = [jax.tree.map(lambda leaf: _fill(leaf, n), batch) for batch in group]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        weights = (np.arange(n) < np.array(lengths)[:, None]).astype(np.float32)
        yield Block(used, stacked, weights)


def _length(batch: PyTree, most: int) -> int:
    """The number of examples in a batch of a stream."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or not 1 <= max(lengths) <= most:
        raise ValueError(
            f"fit: expected batches of 1 to {most} examples ({most} being the first batch's) in "
            f"all of their arrays, got arrays of {sorted(lengths)} examples"
        )
    return lengths.pop()


def _fill(leaf: Any, n: int) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf if len(leaf) == n else leaf[np.minimum(np.arange(n), len(leaf) - 1)]


def source_of_block(
    objective: Objective, block: Block, *, done: int | Array, key: Key[Array, ""] | None
) -> Source:
    """The value functions of a block of batches.

    Args:
        objective: the objective.
        block: the batches.
        done: the number of steps before it.
        key: goes to the model if it takes a key.

    Returns:
        A source of one epoch.
    """

    def value_fn_at(position: Array) -> ValueFunction:
        rows = jax.tree.map(jnp.asarray, (block.batches, block.weights))
        batch, weights = jax.tree.map(lambda a: a[position], rows)
        step_key = _fold(key if objective.takes_key else None, done + position)
        return _weighted(objective.on(batch, key=step_key), weights)

    return Source(len(block.weights), lambda _: value_fn_at)
