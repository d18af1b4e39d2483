"""`fit`: the loop with budgets, a clock, a progress bar and a callback.

Compiled code runs a *chunk* of rounds at a time, as many as take a quarter of a second; between
chunks, and only there, Python looks at the result.
"""

import contextlib
import functools
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from fnn.objective import Objective, ValueFunction
from fnn.training.loop import Limits, Progress, Records, Stop, advance, look, start
from fnn.training.sources import Metric, blocks_of, evaluation_of, source_of, source_of_block


class History(NamedTuple):
    """What was seen on the way.

    Attributes:
        value: the value before each step, on that step's batch. Shape (steps,).
        steps: the number of steps taken when each round ended. Shape (rounds,).
        validation: `loss` and each metric on the validation data after each round, each of shape
            (rounds,); empty without validation data.
    """

    value: Float[np.ndarray, " steps"]
    steps: Int[np.ndarray, " rounds"]
    validation: dict[str, Float[np.ndarray, " rounds"]]


class Fit(NamedTuple):
    """A trained model: parameters, the rule's state, the history and the reason to stop."""

    params: PyTree
    state: PyTree
    history: History
    stopped: Stop


def fit(
    rule: optax.GradientTransformation,
    objective: Objective | ValueFunction | Callable[[Array], ValueFunction] | None,
    params: PyTree,
    data: PyTree | Iterable[PyTree] = None,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    validation: PyTree = None,
    metrics: Mapping[str, Metric] | None = None,
    patience: int | None = None,
    goal: float = -np.inf,
    every: int = 1,
    state: PyTree = None,
    callback: Callable[[Fit], bool | None] | None = None,
) -> Fit:
    """Trains parameters by a rule: full batch, mini-batches, an iterator, or fresh points.

    The compiled loop is kept by the identity of `rule`, `objective` and the metrics and by the
    shapes of the data: a second call with the same objects compiles nothing, whatever `steps`.

    Args:
        rule: an optax transformation, of fnn or of optax.
        objective: an `Objective`, with `data`; or, without, a value function (full batch; several
            blocks) or a function of a key that returns one (fresh points at every step).
        params: the starting point, a tree of floating-point arrays.
        data: what `objective.on` takes: `(inputs, targets)`, or the inputs alone for an objective
            without a loss. Or an iterable of such batches, gone through once per epoch.
        steps: the number of steps; this or `epochs`.
        epochs: the number of passes through the data. Without mini-batches an epoch is a step.
        batch_size: examples in a mini-batch; all of them by default.
        key: shuffles the examples in each epoch (without it they come in their order), draws fresh
            points, and is given to a model that takes a key, for dropout.
        validation: data like `data`, or a value function, looked at after each round.
        metrics: named functions of `(outputs, targets)`, all outputs stacked, for the validation.
        patience: stop after this many rounds without a lower validation loss, and return the
            parameters of the lowest.
        goal: stop after a round whose mean value is this or lower.
        every: epochs in a round, after which come goal, validation and callback, and the check
            that all is finite.
        state: the rule's state to continue with, from an earlier `Fit`.
        callback: called with the fit so far after each round; returning True stops.

    Returns:
        Parameters, the rule's state, the history, and why it stopped.

    Raises:
        ValueError: before anything runs, for budgets that are missing or not positive, data that
            are not finite or empty, and keys or validation data that are missing.
        TypeError: for parameters that are not of floating point.

    Example:
        >>> import jax, optax
        >>> import jax.numpy as jnp
        >>> line = Objective(lambda w, x: w * x, lambda y, t: 0.5 * (y - t) ** 2)
        >>> x = jnp.arange(4.0)
        >>> trained = fit(optax.sgd(0.1), line, jnp.zeros(()), (x, 3 * x), steps=50)
        >>> round(float(trained.params), 6), str(trained.stopped)
        (3.0, 'All steps asked for were taken.')
    """
    if (steps is None) == (epochs is None):
        raise ValueError("fit: expected either steps= or epochs=, got both or neither")
    for name, number in {
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": patience,
        "every": every,
    }.items():
        if number is not None and number < 1:
            raise ValueError(f"fit: expected {name} of at least 1, got {number}")
    if validation is None and (patience is not None or metrics):
        raise ValueError("fit: patience and metrics need validation data; pass validation=")
    if isinstance(objective, ValueFunction):
        if data is not None:
            raise ValueError("fit: expected no data, since a value function brings its own")
        objective, data = None, objective
    streamed = _is_stream(data)
    if not isinstance(objective, Objective) or streamed:
        if batch_size is not None:
            raise ValueError("fit: batch_size= cuts arrays of examples; here there are none")
    elif data is None:
        raise ValueError("fit: an Objective needs data, (inputs, targets)")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                "fit: expected parameters of floating point, got "
                f"params{jax.tree_util.keystr(path)} of {jnp.result_type(leaf)}; cast it, or keep "
                "it out of the parameters"
            )
    params = jax.tree.map(_strong, _finite("params", params))
    data = data if streamed else _finite("data", data)
    validation = _finite("validation", validation)
    if isinstance(objective, Objective) and not streamed:
        objective.on(data)  # raises where the data are not examples

    progress = _start(rule, params, keep_best=patience is not None)
    if state is not None:
        progress = progress._replace(state=state)
    limits = Limits(
        steps=_UNLIMITED if steps is None else steps,
        rounds=_UNLIMITED if callback is None else 1,
        goal=goal,
        patience=_UNLIMITED if patience is None else patience,
    )
    job = _Job(rule, objective, tuple((metrics or {}).items()), batch_size, every)
    chunks = _stream if streamed else _chunks
    seen, fraction = [], 0.0

    def result(stopped: Stop) -> Fit:
        trained = progress.params if patience is None else progress.best
        return Fit(trained, progress.state, _history(seen), stopped)

    with _bar() as move:
        for now, records, fraction in chunks(job, data, validation, key, progress, limits, epochs):
            progress = now
            seen.append((int(progress.step), records))
            move(fraction, records.value)
            stopped = Stop(int(progress.stopped))
            if callback is not None and int(records.rounds) and callback(result(stopped)):
                return result(Stop.CALLBACK)
    stopped = Stop(int(progress.stopped))
    if stopped == Stop.RUNNING:
        stopped = Stop.BUDGET if fraction >= 1 else Stop.DATA
    return result(stopped)


class _Job(NamedTuple):
    """What a compiled loop is kept by, besides shapes."""

    rule: optax.GradientTransformation
    objective: Any
    metrics: tuple[tuple[str, Metric], ...]
    batch_size: int | None
    every: int


_UNLIMITED = np.iinfo(np.int32).max
_SECONDS = 0.25  # of computation between two looks at the bar
_STEPS = 4096  # at most, in a chunk of several rounds: the size of its records


def _chunks(
    job: _Job,
    data: PyTree,
    validation: PyTree,
    key: Array | None,
    progress: Progress,
    limits: Limits,
    epochs: int | None,
) -> Iterator[tuple[Progress, Records, float]]:
    """Trains on data that the device holds; a chunk is as many rounds as take `_SECONDS`."""
    epoch_steps = source_of(job.objective, data, batch_size=job.batch_size, key=key).steps
    round_steps = job.every * epoch_steps
    total = limits.steps if epochs is None else epochs * epoch_steps
    most = max(1, _STEPS // round_steps)
    done, rounds = 0, 1
    while done < total and progress.stopped == Stop.RUNNING:
        begin = time.perf_counter()
        epoch, capacity = done // epoch_steps, (most * round_steps, most)
        now = limits._replace(steps=total - done, rounds=rounds)
        progress, records = _advance(job, capacity, data, validation, key, progress, epoch, now)
        done = min(done + rounds * round_steps, total)
        yield jax.block_until_ready(progress), records, done / total
        wanted = rounds * _SECONDS / (time.perf_counter() - begin)
        rounds = int(max(1, min(wanted, 8 * rounds, most, limits.rounds)))


_start = jax.jit(start, static_argnames=("rule", "keep_best"))


@functools.partial(jax.jit, static_argnames=("job", "capacity"))
def _advance(job, capacity, data, validation, key, progress, epoch, limits):
    source = source_of(job.objective, data, batch_size=job.batch_size, key=key)
    evaluate = evaluation_of(job.objective, job.metrics, validation)
    return advance(
        job.rule, source, evaluate, progress, epoch, limits, epochs=job.every, capacity=capacity
    )


def _stream(
    job: _Job,
    data: Iterable[PyTree],
    validation: PyTree,
    key: Array | None,
    progress: Progress,
    limits: Limits,
    epochs: int | None,
) -> Iterator[tuple[Progress, Records, float]]:
    """Trains on batches as they come; one pass through them is an epoch."""
    done, part = 0, 0.0
    for number in itertools.count(1):
        blocks = blocks_of(iter(data))
        block = next(blocks, None)
        if block is None and number == 1:
            raise ValueError("fit: expected batches of examples, got an iterable without any")
        if block is None:
            return
        while block is not None and done < limits.steps:
            now = limits._replace(steps=min(block.used, limits.steps - done), rounds=1)
            progress, records = _advance_block(job, block, key, progress, done, now)
            done += now.steps
            block = next(blocks, None)  # read while the device computes
            part = done / limits.steps if epochs is None else (number - 1) / epochs
            yield progress, records, part
            if progress.stopped != Stop.RUNNING:
                return
        last = done >= limits.steps or number == epochs
        if last or number % job.every == 0:
            progress, records = _look(job, validation, progress, limits.patience)
            yield progress, records, 1.0 if last else part
        if last or progress.stopped != Stop.RUNNING:
            return


@functools.partial(jax.jit, static_argnames="job")
def _advance_block(job, block, key, progress, done, limits):
    source = source_of_block(job.objective, block, done=done, key=key)
    progress, records = advance(
        job.rule, source, lambda _: {}, progress, 0, limits, capacity=(source.steps, 1)
    )
    return progress, records._replace(rounds=jnp.zeros_like(records.rounds))


@functools.partial(jax.jit, static_argnames="job")
def _look(job, validation, progress, patience):
    evaluate = evaluation_of(job.objective, job.metrics, validation)
    progress, evaluated = look(evaluate, progress, patience)
    evaluated = {name: value[None] for name, value in evaluated.items()}
    return progress, Records(jnp.zeros(0), progress.step[None], evaluated, jnp.ones((), jnp.int32))


def _history(seen: list[tuple[int, Records]]) -> History:
    """The records of all chunks, cut to what was used and put end to end."""
    values, steps, evaluated, before = [], [], [], 0
    for after, records in seen:
        rounds = int(records.rounds)
        values.append(np.asarray(records.value)[: after - before])
        steps.append(np.asarray(records.steps)[:rounds])
        if rounds:
            evaluated.append({k: np.asarray(v)[:rounds] for k, v in records.evaluated.items()})
        before = after
    validation = jax.tree.map(lambda *parts: np.concatenate(parts), *evaluated) if evaluated else {}
    return History(np.concatenate(values), np.concatenate(steps), validation)


@contextlib.contextmanager
def _bar() -> Generator[Callable[[float, Array], None]]:
    """A progress bar where rich is installed and stderr is a terminal; elsewhere nothing."""
    if not (sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield lambda *_: None
        return
    from rich import console, progress

    columns = (
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("value {task.fields[value]:.4g}"),
        progress.TimeRemainingColumn(),
    )
    screen = console.Console(stderr=True)
    with progress.Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("fit", total=1.0, value=np.nan)

        def move(fraction: float, values: Array) -> None:
            finite = np.asarray(values)[np.isfinite(values)]
            bar.update(task, completed=fraction)
            if len(finite):
                bar.tasks[task].fields["value"] = finite[-1]

        yield move


def _is_stream(data: Any) -> bool:
    """Whether data come as batches one after the other, not as a tree of arrays."""
    trees = tuple | list | dict | ValueFunction
    return isinstance(data, Iterable) and not isinstance(data, trees) and not hasattr(data, "shape")


def _strong(leaf: Any) -> Array:
    """An array that is not weakly typed, so that the second call finds what the first compiled."""
    return jnp.asarray(leaf, jnp.result_type(leaf))


def _finite(name: str, tree: PyTree) -> PyTree:
    """The tree on the device; an error names the array that holds NaN or infinity."""
    tree = jax.tree.map(jnp.asarray, tree)
    if not _is_finite(tree):
        for path, leaf in jax.tree.leaves_with_path(tree):
            bad = np.argwhere(~np.isfinite(leaf))
            if len(bad):
                raise ValueError(
                    f"fit: expected finite numbers, got {len(bad)} that are NaN or infinite in "
                    f"{name}{jax.tree_util.keystr(path)}, the first at index {tuple(bad[0].tolist())}"
                )
    return tree


@jax.jit
def _is_finite(tree):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
