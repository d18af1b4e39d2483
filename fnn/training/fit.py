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
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array, Key, PyTree

from fnn import devices
from fnn.dtypes import widest
from fnn.objective import Objective, ValueFunction
from fnn.training.checkpoints import Checkpoints, Snapshot, kept, named
from fnn.training.loop import History, Limits, Progress, Records, Source, Stop, advance, look, start
from fnn.training.placement import (
    everywhere,
    placed,
    placed_batches,
    placed_for_fit,
    sharding_of_examples,
    split,
)
from fnn.training.sources import (
    Block,
    Metric,
    Position,
    blocks_of,
    changed,
    chunked,
    evaluation_of,
    examples_at_once,
    iterator_at,
    source_of,
    source_of_block,
)


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
    prepare: Callable[[PyTree], PyTree] | None = None,
    state: PyTree = None,
    callback: Callable[[Fit], bool | None] | None = None,
    checkpoint: str | Path | Checkpoints | None = None,
    sharding: NamedSharding | None = None,
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
            without a loss. Or a list or another iterable of such batches, gone through once per
            epoch; one that never ends is looked at when the steps are done.
        steps: the number of steps; this or `epochs`.
        epochs: the number of passes through the data. Without mini-batches an epoch is a step.
        batch_size: examples in a mini-batch; all of them by default.
        key: shuffles the examples in each epoch (without it they come in their order), draws fresh
            points, and is given to a model that takes a key, for dropout. The same key gives the
            same run; go on from a `state` with a new one.
        validation: data like `data`, or a value function, looked at after each round.
        metrics: named functions of `(outputs, targets)`, all outputs stacked, for the validation.
        patience: stop after this many rounds without a lower validation loss, and return the
            parameters and the state of the lowest.
        goal: stop after a round whose mean value is this or lower.
        every: epochs in a round, after which come goal, validation and callback, and the check
            that all is finite.
        prepare: what is done to the parameters before each look at the validation data, such as
            `lambda params: layers.calibrate(model, params, inputs)` for batch normalization. The
            parameters returned are those that were trained: prepare them once more.
        state: the rule's state to continue with, from an earlier `Fit`.
        callback: called with the fit so far after each round; returning True stops.
        checkpoint: a folder, new or of this very job, in which the training is kept: killed at any
            instant and called again with the same arguments, it goes on and ends with the same
            bits; asked for more steps, it goes on with those. (Batches of an iterable must come in
            the same order again; one without `get_state` and `set_state` is gone through from its
            beginning.) `Checkpoints` says how often and how many. Needs the extra `checkpoint`.
        sharding: how examples are split over devices, `NamedSharding(mesh, P("examples"))` with an
            axis of the mesh; every device takes its share of every batch, and the parameters are on
            all of them. With `batch_size` the data are on all of them too, otherwise split as well.
            Arrays that lie on the mesh already stay as they lie. Of several processes
            (`jax.distributed`) each runs this same call with the same arrays.

    Returns:
        Parameters, the rule's state, the history, and why it stopped. (It warns where a
        second-order rule has brought the value down to the rounding of a dtype narrower than
        float64, and where the device ran out of memory and a step takes fewer examples at a time.)

    Raises:
        ValueError: before anything runs, for budgets that are missing or not positive, no
            parameters, data that are not finite or empty, keys or validation data that are missing,
            and a folder that cannot be written or holds anything but checkpoints of this job; for
            batches that the devices cannot share equally, and devices of different kinds.
        TypeError: for parameters that are not real numbers of floating point, and for a rule that
            is not a transformation or a sharding that is none.

    Example:
        >>> import jax, optax
        >>> import jax.numpy as jnp
        >>> line = Objective(lambda w, x: w * x, lambda y, t: 0.5 * (y - t) ** 2)
        >>> x = jnp.arange(4.0)
        >>> trained = fit(optax.sgd(0.1), line, jnp.zeros(()), (x, 3 * x), steps=50)
        >>> round(float(trained.params), 6), str(trained.stopped)
        (3.0, 'All steps asked for were taken.')
    """
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise TypeError(
            f"fit: expected a rule such as rules.adam(1e-3), got {rule!r}; call it with its rate"
        )
    if (steps is None) == (epochs is None):
        raise ValueError("fit: expected either steps= or epochs=, got both or neither")
    numbers = {"steps": steps, "epochs": epochs, "batch_size": batch_size, "patience": patience}
    for name, number in (numbers | {"every": every}).items():
        if number is not None and (number != int(number) or number < 1):
            raise ValueError(f"fit: expected {name} to be a whole number above 0, got {number}")
    if isinstance(objective, ValueFunction):
        if data is not None:
            raise ValueError("fit: expected no data, since a value function brings its own")
        objective, data = None, objective
    streamed = _is_stream(data)
    if not isinstance(objective, Objective):
        if objective is not None and data is not None:
            raise ValueError("fit: expected no data, since the function draws its own")
        if validation is not None and not isinstance(validation, ValueFunction):
            raise ValueError("fit: expected validation to be a value function, as the objective is")
    elif data is None:
        raise ValueError("fit: an Objective needs data, (inputs, targets)")
    if batch_size is not None and (streamed or not isinstance(objective, Objective)):
        raise ValueError("fit: batch_size= cuts arrays of examples; here there are none")
    if metrics and (validation is None or isinstance(validation, ValueFunction)):
        raise ValueError("fit: metrics need validation data; pass validation=(inputs, targets)")
    if metrics and "loss" in metrics:
        raise ValueError("fit: expected metrics of other names than 'loss', which is always there")
    if patience is not None and validation is None:
        raise ValueError("fit: patience needs validation data; pass validation=")
    if not jax.tree.leaves(params):
        raise ValueError(f"fit: expected parameters to train, got {params}, a tree without leaves")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                "fit: expected real parameters of floating point, got "
                f"params{jax.tree_util.keystr(path)} of {jnp.result_type(leaf)}; cast it, split it "
                "into real and imaginary parts, or keep it out of the parameters"
            )
    held = {
        "params": jax.tree.map(_strong, params),
        "data": None if streamed else data,
        "validation": validation,
    }
    if isinstance(objective, Objective):
        for examples in (held["data"], validation):
            if examples is not None and not isinstance(examples, ValueFunction):
                objective.on(examples)  # raises where these are not examples
    if sharding is None:
        held = jax.tree.map(jnp.asarray, held)
    else:
        sharding = sharding_of_examples(sharding)
        held = placed_for_fit(held, objective, batch_size, sharding)
        key = placed(key, everywhere(sharding))
    params, validation = _finite(held)["params"], held["validation"]
    data = data if streamed else held["data"]

    progress = _start(rule, params, keep_best=patience is not None)
    if state is not None:
        expected = jax.tree.structure(progress.state)
        if jax.tree.structure(state) != expected:
            raise ValueError(
                f"fit: expected a state of this rule, {expected}, got {jax.tree.structure(state)}; "
                "pass the state of a Fit by the same rule"
            )
        progress = progress._replace(state=state)
    layout = None
    if sharding is not None:
        progress = placed(progress, everywhere(sharding))
        layout = tuple(leaf.sharding for leaf in jax.tree.leaves(progress))
    limits = Limits(
        steps=_UNLIMITED if steps is None else int(steps),
        rounds=_UNLIMITED if callback is None else 1,
        goal=float(goal),
        patience=_UNLIMITED if patience is None else int(patience),
    )
    epochs, every = None if epochs is None else int(epochs), int(every)
    batch_size = None if batch_size is None else int(batch_size)
    looked_at = tuple((metrics or {}).items())
    job = _Job(rule, objective, looked_at, prepare, batch_size, every, sharding, layout)
    chunks = _stream if streamed else _chunks
    begin = Snapshot(progress, History(np.zeros(0), np.zeros(0, np.int32), {}), Position(), 0.0)
    arrays = {"params": progress.params, "state": progress.state, "validation": validation}
    arrays |= {"data": None if streamed else data}
    terms = {"batch_size": batch_size, "every": every, "goal": limits.goal, "key": key}
    terms |= {"patience": patience, "metrics": [name for name, _ in job.metrics]}

    def result(stopped: Stop) -> Fit:
        here = progress.params, progress.state
        trained, at = here if patience is None else progress.best
        return Fit(trained, at, history, stopped)

    with kept(checkpoint, begin, arrays, terms) as (here, keep), _bar() as move:
        progress, history, position, fraction = here
        columns = jax.tree.map(_Column, history)
        resumed = _at_the_end_of_a_round(here)
        if resumed and callback is not None and callback(result(Stop(int(progress.stopped)))):
            return result(Stop.CALLBACK)
        for now, records, fraction, at in chunks(
            job, data, validation, key, progress, limits, epochs, position
        ):
            _append(columns, records, int(now.step) - int(progress.step))
            progress, history = now, jax.tree.map(lambda column: column.seen, columns)
            keep(Snapshot(progress, history, at, fraction))
            move(fraction, history.value)
            stopped = Stop(int(progress.stopped))
            if callback is not None and int(records.rounds) and callback(result(stopped)):
                return result(Stop.CALLBACK)
    stopped = Stop(int(progress.stopped))
    if stopped == Stop.RUNNING:
        stopped = Stop.BUDGET if fraction >= 1 else Stop.DATA
    if stopped == Stop.STALLED:
        _warn_of_rounding(history.value, jax.tree.leaves(params), goal)
    return result(stopped)


class _Job(NamedTuple):
    """What a compiled loop is kept by, besides shapes."""

    rule: optax.GradientTransformation
    objective: Any
    metrics: tuple[tuple[str, Metric], ...]
    prepare: Callable[[PyTree], PyTree] | None
    batch_size: int | None
    every: int
    sharding: NamedSharding | None  # of the examples
    layout: tuple[NamedSharding, ...] | None  # of the leaves of the progress
    chunk: int | None = None  # the most examples at a time, once memory has run out

    @property
    def is_shared(self) -> bool:
        """Whether other processes run it too."""
        return self.sharding is not None and not self.sharding.is_fully_addressable

    def arranged(self, value_fn: ValueFunction) -> ValueFunction:
        """A step's value function, its examples split over devices and cut to what memory holds."""
        return chunked(split(value_fn, self.sharding), self.chunk)

    def at_home(self, progress: Progress, records: Records) -> tuple[Progress, Records]:
        """What a compiled loop returns, where it lay before: the next call compiles nothing."""
        if self.sharding is None or self.layout is None:
            return progress, records
        home = jax.tree.unflatten(jax.tree.structure(progress), self.layout)
        constrain = jax.lax.with_sharding_constraint
        return constrain(progress, home), constrain(records, everywhere(self.sharding))


_UNLIMITED = np.iinfo(np.int32).max
_SECONDS = 0.25  # of computation between two looks at the bar
_STEPS = 4096  # at most, in a chunk of several rounds: the size of its records
_Seen = tuple[Progress, Records, float, Position]


def _chunks(
    job: _Job,
    data: PyTree,
    validation: PyTree,
    key: Array | None,
    progress: Progress,
    limits: Limits,
    epochs: int | None,
    position: Position,
) -> Iterator[_Seen]:
    """Trains on data that the device holds; a chunk is as many rounds as take `_SECONDS`."""
    epoch_steps = _source(job, data, key).steps
    round_steps = job.every * epoch_steps
    total = limits.steps if epochs is None else epochs * epoch_steps
    most = max(1, min(_STEPS // round_steps, limits.rounds))
    done, rounds = int(progress.step), 1
    _require_no_less(total, done, "steps")
    while done < total and progress.stopped == Stop.RUNNING:
        begin = time.perf_counter()
        capacity = most * round_steps, most
        now = limits._replace(steps=total - done, rounds=rounds)
        with _explained(progress.params, data):
            job, (progress, records) = _within_memory(
                _advance, job, capacity, data, validation, key, progress, done, now,
                source=lambda job: _source(job, data, key),
            )  # fmt: skip
        done = min((done // round_steps + rounds) * round_steps, total)
        yield progress, records, done / total, position
        wanted = rounds * _SECONDS / (time.perf_counter() - begin)
        rounds = int(max(1, min(wanted, 8 * rounds, most)))
        if job.is_shared:  # clocks differ, but all processes run the same program
            rounds = int(multihost_utils.broadcast_one_to_all(np.int32(rounds)))


_start = devices.jit(start, static_argnames=("rule", "keep_best"))


def _source(job: _Job, data: PyTree, key: Array | None) -> Source:
    source = source_of(job.objective, data, batch_size=job.batch_size, key=key)
    return changed(source, job.arranged)


@functools.partial(devices.jit, static_argnames=("job", "capacity"))
def _advance(job, capacity, data, validation, key, progress, done, limits):
    source = _source(job, data, key)
    evaluate = evaluation_of(job.objective, job.metrics, validation, job.prepare, job.chunk)
    round_steps = job.every * source.steps
    progress, records = advance(
        job.rule,
        source,
        evaluate,
        progress,
        done,
        limits,
        round_end=lambda r: (done // round_steps + r + 1) * round_steps - done,
        capacity=capacity,
    )
    return job.at_home(progress, records)


def _within_memory(
    run: Callable,
    job: _Job,
    *arguments: Any,
    source: Callable[[_Job], Source],
    meanwhile: Callable[[], Any] = lambda: None,
) -> tuple[_Job, tuple[Progress, Records]]:
    """`run(job, *arguments)`, of half as many examples at a time while the device has no room."""
    first = job
    while True:
        try:
            with devices.lapack_restored():
                seen = run(job, *arguments)
                meanwhile()
                seen = jax.block_until_ready(seen)
        except jax.errors.JaxRuntimeError as error:
            size = _examples(source(job)) if "RESOURCE_EXHAUSTED" in str(error) else 0
            if size < 2:
                raise
            job = job._replace(chunk=-(-size // 2))
        else:
            if job.chunk != first.chunk:
                warnings.warn(
                    "fit: the device ran out of memory; going on with "
                    f"{job.chunk} examples at a time, whose sums are accumulated: the same steps "
                    "up to rounding (batch normalization takes its means over these). Try "
                    f"batch_size={job.chunk} or a device with more memory",
                    stacklevel=4,
                )
            return job, seen


def _examples(source: Source) -> int:
    """The examples that a step evaluates together, known without an array made."""
    found = []

    def count() -> None:
        zero = jnp.zeros((), jnp.int32)
        value_fn: Any = source.epoch(zero)(zero)
        found.append(examples_at_once(value_fn))

    jax.eval_shape(count)
    return found[0]


def _stream(
    job: _Job,
    data: Iterable[PyTree],
    validation: PyTree,
    key: Array | None,
    progress: Progress,
    limits: Limits,
    epochs: int | None,
    position: Position,
) -> Iterator[_Seen]:
    """Trains on batches as they come; one pass through them is an epoch."""
    done, part, at = int(progress.step), 0.0, position
    _require_no_less(limits.steps, done, "steps")
    if epochs is not None:
        _require_no_less(epochs, at.passes + (at.batches > 0), "epochs")
    over = progress.stopped != Stop.RUNNING or done >= limits.steps or at.passes == epochs
    if over and not at.steps:
        return
    iterator = iterator_at(data, at)
    while True:
        blocks = blocks_of(itertools.islice(iterator, limits.steps - done), at.examples)
        if job.sharding is not None:
            blocks = (placed_batches(block, job.sharding) for block in blocks)
        read = _read(blocks, iterator)
        if read.block is None and read.error is None and at == Position():
            raise ValueError("fit: expected batches of examples, got an iterable without any")
        ended = read.block is None and not at.batches
        while progress.stopped == Stop.RUNNING:
            if read.error is not None:
                read.error.add_note(f"fit: this came from the batches, after {done} steps")
                raise read.error
            block = read.block
            if block is None:
                break
            ahead = functools.cache(functools.partial(_read, blocks, iterator))
            now = limits._replace(steps=block.used, rounds=1, goal=-np.inf)
            with _explained(progress.params, block.batches):
                job, (progress, records) = _within_memory(
                    _advance_block, job, block, key, progress, done, now,
                    source=functools.partial(_source_of_block, block=block, done=done, key=key),
                    meanwhile=ahead,  # read while the device computes
                )  # fmt: skip
            done += block.used
            at = Position(
                passes=at.passes,
                batches=at.batches + block.used,
                examples=block.weights.shape[1],
                value=at.value + float(np.nansum(records.value)),
                steps=at.steps + block.used,
                state=read.state,
            )
            part = done / limits.steps if epochs is None else at.passes / epochs
            yield progress, records, min(part, 0.999), at
            read = ahead()
        stopped = bool(progress.stopped != Stop.RUNNING)
        last = ended or stopped or done >= limits.steps or at.passes + 1 == epochs
        look_now = at.steps and (last or (at.passes + 1) % job.every == 0)
        goal = look_now and at.value / at.steps <= limits.goal
        if not stopped and done < limits.steps:  # the pass is through
            state = at.state if iterator is data else None
            at = at._replace(passes=at.passes + 1, batches=0, examples=0, state=state)
        if look_now:
            at = at._replace(value=0.0, steps=0)
            progress, records = _look(job, validation, progress, goal, limits.patience)
            yield progress, records, part if ended else 1.0 if last else part, at
        if last or progress.stopped != Stop.RUNNING:
            return
        iterator = iter(data)


class _Read(NamedTuple):
    """What came of asking for the next block: a block, none, or an error; and the state then."""

    block: Block | None = None
    state: Any = None
    error: Exception | None = None


def _read(blocks: Iterator[Block], iterator: Any) -> _Read:
    """Asks for the next block; an error waits until what came before is trained on."""
    try:
        block = next(blocks, None)
        state = iterator.get_state() if hasattr(iterator, "set_state") else None
    except Exception as error:
        return _Read(error=error)
    return _Read(block, state)


def _require_no_less(asked: int, done: int, unit: str) -> None:
    if asked < done:
        raise ValueError(
            f"fit: expected {unit} to be at least {done}, which is how far the training in the "
            f"folder has come, got {asked}; try a new folder"
        )


def _source_of_block(job: _Job, *, block: Block, done: int, key: Array | None) -> Source:
    source = source_of_block(job.objective, block, done=done, key=key)
    return changed(source, job.arranged)


@functools.partial(devices.jit, static_argnames="job")
def _advance_block(job, block, key, progress, done, limits):
    source = _source_of_block(job, block=block, done=done, key=key)
    progress, records = advance(
        job.rule,
        source,
        lambda _: {},
        progress,
        0,
        limits,
        round_end=lambda _: jnp.asarray(source.steps),
        capacity=(source.steps, 1),
    )
    return job.at_home(progress, records._replace(rounds=jnp.zeros_like(records.rounds)))


@functools.partial(devices.jit, static_argnames="job")
def _look(job, validation, progress, goal, patience):
    running = progress.stopped == Stop.RUNNING
    verdict = jnp.where(running & goal, Stop.GOAL, progress.stopped).astype(jnp.int32)
    evaluate = evaluation_of(job.objective, job.metrics, validation, job.prepare, job.chunk)
    progress, evaluated = look(evaluate, progress._replace(stopped=verdict), patience)
    evaluated = {name: value[None] for name, value in evaluated.items()}
    records = Records(jnp.zeros(0), progress.step[None], evaluated, jnp.ones((), jnp.int32))
    return job.at_home(progress, records)


def _at_the_end_of_a_round(here: Snapshot) -> bool:
    rounds = here.history.steps
    return len(rounds) > 0 and rounds[-1] == int(here.progress.step)


class _Column:
    """Numbers in room that doubles when it is full; `seen` is a view that stays as it is."""

    def __init__(self, seen: np.ndarray) -> None:
        self.room = self.seen = seen

    def append(self, new: np.ndarray) -> None:
        """Adds these at the end."""
        used, total = len(self.seen), len(self.seen) + len(new)
        if total > len(self.room):
            self.room = np.empty(2 * total, new.dtype)
            self.room[:used] = self.seen
        self.room[used:total] = new
        self.seen = self.room[:total]


def _append(columns: PyTree, records: Records, steps: int) -> None:
    """Adds to a history of columns what a chunk of so many steps saw."""
    rounds = int(records.rounds)
    columns.value.append(np.asarray(records.value)[:steps])
    columns.steps.append(np.asarray(records.steps)[:rounds])
    for name, values in records.evaluated.items() if rounds else ():
        column = columns.validation.setdefault(name, _Column(np.zeros(0)))
        column.append(np.asarray(values)[:rounds])


@contextlib.contextmanager
def _explained(params: PyTree, data: PyTree) -> Generator[None]:
    """Adds to an error of the model or the loss what they were given."""
    try:
        yield
    except (TypeError, ValueError) as error:
        shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", (params, data))
        error.add_note(
            f"fit: the step was being compiled with params {shapes[0]} and data, examples first, "
            f"{shapes[1]}; the model sees one example"
        )
        raise


@contextlib.contextmanager
def _bar() -> Generator[Callable[[float, np.ndarray], None]]:
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

        def move(fraction: float, values: np.ndarray) -> None:
            finite = values[np.isfinite(values)]
            bar.update(task, completed=fraction)
            if len(finite):
                bar.tasks[task].fields["value"] = finite[-1]

        yield move


def _warn_of_rounding(values: np.ndarray, leaves: list[Array], goal: float) -> None:
    """Says so where a value stalled because its dtype has no more digits.

    Squares of residuals that have lost more than half of their digits: a minimum that is not zero
    is hardly ever as low, in comparison to where training began.
    """
    dtype = widest(*leaves)
    first, last = values[0], np.nanmin(values)
    if dtype == jnp.float64 or not 0 < last <= jnp.finfo(dtype).eps * first:
        return
    aim = f", above the goal of {goal:.3g}" if np.isfinite(goal) else ""
    warnings.warn(
        f"fit: {dtype} has no more digits: the value fell from {first:.2g} to {last:.2g}{aim}, and "
        "what is left is rounding. Try float64: jax.config.update('jax_enable_x64', True) at the "
        "start of the program, and parameters and data made after it.",
        stacklevel=3,
    )


def _is_stream(data: Any) -> bool:
    """Whether data come as batches one after the other, not as a tree of arrays."""
    trees = tuple | dict | ValueFunction
    return isinstance(data, Iterable) and not isinstance(data, trees) and not hasattr(data, "shape")


def _strong(leaf: Any) -> Array:
    """An array that is not weakly typed, so that the second call finds what the first compiled."""
    return jnp.asarray(leaf, jnp.result_type(leaf))


def _finite(tree: PyTree) -> PyTree:
    """The tree itself; an error names the array in it that holds NaN or infinity."""
    if not _is_finite(tree):
        for name, leaf in named(tree).items():
            bad = ~jnp.isfinite(leaf).ravel()
            if count := int(bad.sum()):
                index = np.unravel_index(int(bad.argmax()), jnp.shape(leaf))
                raise ValueError(
                    f"fit: expected finite numbers, got {count} that are NaN or infinite in "
                    f"{name}, the first at index {tuple(map(int, index))}"
                )
    return tree


@devices.jit
def _is_finite(tree):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
