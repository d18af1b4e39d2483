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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, Key, PyTree

from fnn.objective import Objective, ValueFunction
from fnn.training.loop import Limits, Progress, Records, Stop, advance, look, start
from fnn.training.placement import (
    everywhere,
    placed,
    placed_batches,
    placed_for_fit,
    sharding_of_examples,
    split,
)
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
    prepare: Callable[[PyTree], PyTree] | None = None,
    state: PyTree = None,
    callback: Callable[[Fit], bool | None] | None = None,
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
        sharding: how examples are split over devices, `NamedSharding(mesh, P("examples"))` with an
            axis of the mesh; every device takes its share of every batch, and the parameters are on
            all of them. With `batch_size` the data are on all of them too, otherwise split as well.
            Arrays that lie on the mesh already stay as they lie. Of several processes
            (`jax.distributed`) each runs this same call with the same arrays.

    Returns:
        Parameters, the rule's state, the history, and why it stopped. (Where a second-order rule
        has brought the value down to the rounding of a dtype narrower than float64, it warns.)

    Raises:
        ValueError: before anything runs, for budgets that are missing or not positive, data that
            are not finite or empty, and keys or validation data that are missing; for batches that
            the devices cannot share equally, and devices of different kinds.
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
    history, fraction = _EMPTY, 0.0

    def result(stopped: Stop) -> Fit:
        here = progress.params, progress.state
        trained, at = here if patience is None else progress.best
        return Fit(trained, at, history, stopped)

    with _bar() as move:
        for now, records, fraction in chunks(job, data, validation, key, progress, limits, epochs):
            history = _grown(history, records, int(now.step) - int(progress.step))
            progress = now
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

    @property
    def is_shared(self) -> bool:
        """Whether other processes run it too."""
        return self.sharding is not None and not self.sharding.is_fully_addressable

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
    most = max(1, min(_STEPS // round_steps, limits.rounds))
    done, rounds = 0, 1
    while done < total and progress.stopped == Stop.RUNNING:
        begin = time.perf_counter()
        capacity = most * round_steps, most
        now = limits._replace(steps=total - done, rounds=rounds)
        with _explained(progress.params, data):
            progress, records = _advance(job, capacity, data, validation, key, progress, done, now)
        done = min(done + rounds * round_steps, total)
        yield jax.block_until_ready(progress), records, done / total
        wanted = rounds * _SECONDS / (time.perf_counter() - begin)
        rounds = int(max(1, min(wanted, 8 * rounds, most)))
        if job.is_shared:  # clocks differ, but all processes run the same program
            rounds = int(multihost_utils.broadcast_one_to_all(np.int32(rounds)))


_start = jax.jit(start, static_argnames=("rule", "keep_best"))


@functools.partial(jax.jit, static_argnames=("job", "capacity"))
def _advance(job, capacity, data, validation, key, progress, done, limits):
    source = source_of(job.objective, data, batch_size=job.batch_size, key=key)
    source = split(source, job.sharding)
    evaluate = evaluation_of(job.objective, job.metrics, validation, job.prepare)
    progress, records = advance(
        job.rule,
        source,
        evaluate,
        progress,
        done,
        limits,
        round_end=lambda r: (r + 1) * (job.every * source.steps),
        capacity=capacity,
    )
    return job.at_home(progress, records)


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
    done, value, steps, part = 0, 0.0, 0, 0.0
    for number in itertools.count(1):
        blocks = blocks_of(itertools.islice(iter(data), limits.steps - done))
        if job.sharding is not None:
            blocks = (placed_batches(block, job.sharding) for block in blocks)
        block = next(blocks, None)
        if block is None and number == 1:
            raise ValueError("fit: expected batches of examples, got an iterable without any")
        ended = block is None
        while block is not None and progress.stopped == Stop.RUNNING:
            with _explained(progress.params, block.batches):
                now = limits._replace(steps=block.used, rounds=1, goal=-np.inf)
                progress, records = _advance_block(job, block, key, progress, done, now)
            done, steps = done + block.used, steps + block.used
            block = next(blocks, None)  # read while the device computes
            value += float(np.nansum(records.value))
            part = done / limits.steps if epochs is None else (number - 1) / epochs
            yield progress, records, min(part, 0.999)
        last = ended or done >= limits.steps or number == epochs
        last = last or bool(progress.stopped != Stop.RUNNING)
        if steps and (last or number % job.every == 0):
            goal = value / steps <= limits.goal
            progress, records = _look(job, validation, progress, goal, limits.patience)
            value, steps = 0.0, 0
            yield progress, records, part if ended else 1.0 if last else part
        if last or progress.stopped != Stop.RUNNING:
            return


@functools.partial(jax.jit, static_argnames="job")
def _advance_block(job, block, key, progress, done, limits):
    source = split(source_of_block(job.objective, block, done=done, key=key), job.sharding)
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


@functools.partial(jax.jit, static_argnames="job")
def _look(job, validation, progress, goal, patience):
    running = progress.stopped == Stop.RUNNING
    verdict = jnp.where(running & goal, Stop.GOAL, progress.stopped).astype(jnp.int32)
    evaluate = evaluation_of(job.objective, job.metrics, validation, job.prepare)
    progress, evaluated = look(evaluate, progress._replace(stopped=verdict), patience)
    evaluated = {name: value[None] for name, value in evaluated.items()}
    records = Records(jnp.zeros(0), progress.step[None], evaluated, jnp.ones((), jnp.int32))
    return job.at_home(progress, records)


_EMPTY = History(np.zeros(0), np.zeros(0, np.int32), {})


def _grown(history: History, records: Records, steps: int) -> History:
    """The history with what a chunk of so many steps saw."""
    rounds = int(records.rounds)

    def join(old: np.ndarray | None, new: Array, length: int) -> np.ndarray:
        seen = np.asarray(new)[:length]
        return seen if old is None or not len(old) else np.concatenate([old, seen])

    validation = history.validation
    if rounds:
        seen = records.evaluated.items()
        validation = {name: join(validation.get(name), values, rounds) for name, values in seen}
    value = join(history.value, records.value, steps) if steps else history.value
    return History(value, join(history.steps, records.steps, rounds), validation)


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
    dtype = jnp.result_type(*leaves)
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
        for path, leaf in jax.tree.leaves_with_path(tree):
            bad = ~jnp.isfinite(leaf).ravel()
            if count := int(bad.sum()):
                index = np.unravel_index(int(bad.argmax()), jnp.shape(leaf))
                name = "".join(map(str, [path[0].key, jax.tree_util.keystr(path[1:])]))
                raise ValueError(
                    f"fit: expected finite numbers, got {count} that are NaN or infinite in "
                    f"{name}, the first at index {tuple(map(int, index))}"
                )
    return tree


@jax.jit
def _is_finite(tree):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
