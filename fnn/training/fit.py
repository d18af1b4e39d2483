"""`fit`: the loop with budgets, checkpoints, a progress bar and a callback."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Key, PyTree

from fnn.objective import Objective, ValueFunction
from fnn.training.account import Ending, account, reason, verdict
from fnn.training.checkpoints import Checkpoints, checkpointed
from fnn.training.job import Request, job_of
from fnn.training.loop import History, Stop
from fnn.training.progress import progress_bar
from fnn.training.remarks import remarks
from fnn.training.segments import snapshots
from fnn.training.snapshot import Snapshot
from fnn.training.sources import Metric


class Fit(NamedTuple):
    """A trained model.

    Attributes:
        params: the parameters.
        state: the rule's state.
        history: the value at each step, and what was looked at after each round.
        stopped: why training ended, equal to one of the `Stop`s; as a string it says why, with the
            last value, the relative gradient, and the steps accepted and rejected.
    """

    params: PyTree
    state: PyTree
    history: History
    stopped: Ending


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
    tolerance: float | None = None,
    every: int = 1,
    prepare: Callable[[PyTree], PyTree] | None = None,
    state: PyTree = None,
    callback: Callable[[Fit], bool | None] | None = None,
    checkpoint: str | Path | Checkpoints | None = None,
    sharding: NamedSharding | None = None,
) -> Fit:
    """Trains parameters by a rule: full batch, mini-batches, an iterator, or fresh points.

    The compiled loop is kept by the identity of `rule`, `objective` and the metrics and by the
    shapes of the data: a second call with the same objects compiles nothing, whatever `steps`. As
    with `jax.jit`, what these functions read besides their arguments is read once: make them anew
    where it has changed.

    Before anything runs it raises a ValueError for budgets that are missing or not positive, no
    parameters, data that are not finite or empty, keys or validation data that are missing, and a
    folder that cannot be written or holds anything but checkpoints of this job; for batches that
    the devices cannot share equally, and devices of different kinds. It raises a TypeError for
    parameters that are not real numbers of floating point, and for a rule that is not a
    transformation or a sharding that is none.

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
        tolerance: stop after a round at whose last step so little was left. Of a rule that has a
            model of the value: the decrease that it promised was below the tolerance, relative to
            the value, or its whole step below 8 times that, relative to the parameters, leaf by
            leaf. Of another: step and decrease were below 8 times the tolerance, and the gradient
            below its square root, relative to the largest so far. None takes rounding where a step
            sees all examples, and else 0, which takes all steps.
        every: epochs in a round, after which come goal, validation and callback, and the check
            that all is finite.
        prepare: what is done to the parameters before each look at the validation data, such as
            `lambda params: layers.calibrate(model, params, inputs)` for batch normalization. The
            parameters returned are those that were trained: prepare them once more.
        state: the rule's state to continue with, from an earlier `Fit`.
        callback: called with the fit so far after each round; returning True stops. An error that
            it raises (or a full disk, or Ctrl-C) ends training and has the fit so far as its
            attribute `fit`.
        checkpoint: a folder, new or of this very job, in which the training is kept: killed at any
            instant and called again with the same arguments, it goes on and ends with the same
            bits; asked for more steps, it goes on with those. (Batches of an iterable must come in
            the same order again; one without `get_state` and `set_state` is gone through from its
            beginning.) A job is known by its shapes, by the bits of `params`, `state`, `data` and
            `validation`, and by the programs of model, loss, penalties, metrics and `prepare`; of
            a stream, by the program on the first batch of a list, or else on `validation`. A rule
            is known by its state alone, so that another one with an equal state, of another rate
            for instance, goes on from where the first had come; numbers in the state, such as
            those of `optax.inject_hyperparams`, are part of the job. Another release of JAX or of
            fnn, and another kind of device, compare shapes alone. `Checkpoints` says how often and
            how many. Needs the extra `checkpoint`.
        sharding: how examples are split over devices, `NamedSharding(mesh, P("examples"))` with an
            axis of the mesh; every device takes its share of every batch, and the parameters are on
            all of them. With `batch_size` the data are on all of them too, otherwise split as well.
            Arrays that lie on the mesh already stay as they lie. Of several processes
            (`jax.distributed`) each runs this same call with the same arrays.

    Returns:
        Parameters, the rule's state, the history, and why it stopped. (It warns where a
        second-order rule has brought the value down to the rounding of a dtype narrower than
        float64, and where the device ran out of memory and a step takes fewer examples at a time.)

    Example:
        >>> import jax, optax
        >>> import jax.numpy as jnp
        >>> line = Objective(lambda w, x: w * x, lambda y, t: 0.5 * (y - t) ** 2)
        >>> x = jnp.arange(4.0)
        >>> trained = fit(optax.sgd(0.1), line, jnp.zeros(()), (x, 3 * x), steps=50)
        >>> round(float(trained.params), 6), trained.stopped == Stop.BUDGET
        (3.0, True)
    """
    request = Request(
        rule,
        objective,
        params,
        data,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        key=key,
        validation=validation,
        metrics=metrics,
        patience=patience,
        goal=goal,
        tolerance=tolerance,
        every=every,
        prepare=prepare,
        state=state,
        sharding=sharding,
        has_callback=callback is not None,
    )
    job = job_of(request)
    with (
        checkpointed(checkpoint, job) as (begin, save),
        progress_bar() as move,
    ):
        here = begin  # killed between saving and the callback, it is asked again
        try:
            if _callback_stops(callback, here):
                return _result(here, Stop.CALLBACK)
            for here in snapshots(job, begin):
                save(here)
                move(here.fraction, here.history.value)
                if _callback_stops(callback, here):
                    return _result(here, Stop.CALLBACK)
        except BaseException as error:
            if here.steps:
                _hand_over(error, here)
            raise
    stopped = verdict(job, here)
    for remark in remarks(job, here, stopped):
        warnings.warn(f"fit: {remark}", stacklevel=2)
    return _result(here, *reason(job, here, stopped))


def _result(here: Snapshot, stopped: Stop, sentence: str | None = None) -> Fit:
    """The fit of a snapshot, of the best parameters if they are held."""
    progress = here.progress
    params, state = progress.best or (progress.params, progress.state)
    return Fit(
        params, state, here.history, Ending(stopped, f"{sentence or stopped} {account(here)}")
    )


def _hand_over(error: Any, here: Snapshot) -> None:
    """What was trained before an error, of the callback or of a full disk, goes with the error."""
    error.fit = _result(here, Stop.RUNNING)
    error.add_note(f"fit: what was trained, {here.steps} steps, is this error's attribute `fit`")


def _callback_stops(callback: Callable[[Fit], bool | None] | None, here: Snapshot) -> bool:
    """Calls the callback if this is the end of a round, and returns whether it asks to stop."""
    if callback is None or not here.is_round_end:
        return False
    return bool(callback(_result(here, Stop(int(here.progress.stopped)))))
