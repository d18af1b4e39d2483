"""`fit`: the loop with budgets, checkpoints, progress in words and a callback."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Key, PyTree

from fnn.objective import Objective, ValueFunction
from fnn.progress import shown
from fnn.rules import require_inside
from fnn.training import glance
from fnn.training.account import Ending, account, reason, verdict
from fnn.training.callbacks import Callback, callback_of, due_of
from fnn.training.checkpoints import Checkpoints, checkpointed
from fnn.training.history import History
from fnn.training.job import Request, job_of
from fnn.training.loop import Stop
from fnn.training.remarks import remarks
from fnn.training.snapshot import Snapshot
from fnn.training.sources import Metric
from fnn.training.stretches import Stretch, stretches


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

    def __repr__(self) -> str:
        """The fit in a few lines, without its arrays."""
        return glance.line(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the same, and the value against the steps."""
        return glance.html(self)


def fit(
    rule: optax.GradientTransformation,
    objective: Objective | ValueFunction | Callable[[Array], ValueFunction] | None,
    params: PyTree,
    data: PyTree | Iterable[PyTree] = None,
    *,
    weights: Float[Array, " n"] | None = None,
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
    callback: Callable[[Fit], bool | None] | Callback | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | Checkpoints | None = None,
    sharding: NamedSharding | None = None,
) -> Fit:
    """Trains parameters by a rule: full batch, mini-batches, an iterator, or fresh points.

    The compiled loop is kept by the identity of `rule`, `objective` and the metrics and by the
    shapes of the data: a second call with the same objects compiles nothing, whatever `steps`. As
    with `jax.jit`, what these functions read besides their arguments is read once: make them anew
    where it has changed.

    Before anything runs it raises a ValueError for budgets that are missing or not positive, no
    parameters, data that are not finite or empty, weights that are negative, not finite, all 0 or
    of another length, keys or validation data that are missing, and a
    folder that cannot be written or holds anything but checkpoints of this job; for batches that
    the devices cannot share equally, and devices of different kinds. It raises a TypeError for
    parameters that are not real numbers of floating point, and for a rule that is not a
    transformation, a sharding that is none, or a callback that cannot be called.

    Args:
        rule: an optax transformation, of fnn or of optax.
        objective: an `Objective`, with `data`; or, without, a value function (full batch; several
            blocks) or a function of a key that returns one (fresh points at every step).
        params: the starting point, a tree of floating-point arrays.
        data: what `objective.on` takes: `(inputs, targets)`, or the inputs alone for an objective
            without a loss. Or a list or another iterable of such batches, gone through once per
            epoch; one that never ends is looked at when the steps are done.
        weights: w >= 0 of each example of arrays, such as 1 / sigma^2 of its target; the value of a
            step is sum(w l) / sum(w) over the examples that it sees, 0 where all of these weigh 0.
            Weight 2 is an example given twice, weight 0 one that is left out, whatever it holds.
            (Validation data are weighted by `validation=objective.on(data, weights=...)`.)
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
        callback: called with the fit so far after each round; returning True stops. A `Callback`
            is called every few seconds or steps instead. Rounds, or steps, that take no time are
            trained together, and their fits handed out one by one while training goes on: so a
            callback costs little, and may see a fit a quarter of a second late, its parameters and
            state as arrays of NumPy. Where it stops, later steps are dropped. An error that it
            raises (or a full disk, or Ctrl-C) ends training and has the fit so far as its attribute
            `fit`.
        progress: whether to show how far training has come: on a terminal and in a notebook in a
            line that is rewritten, elsewhere on standard error in a line every five seconds. None
            shows what takes longer than a second, but nothing in a pipe or a file.
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
    asked = callback_of(callback)
    request = Request(
        rule,
        objective,
        params,
        data,
        weights=weights,
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
        callback=asked,
    )
    job = job_of(request)
    began = job.progress.state if state is None else rule.init(job.progress.params)
    require_inside(began, job.progress.params)
    with (
        checkpointed(checkpoint, job) as (begin, save),
        shown(progress, "fit") as say,
    ):
        here, watch = begin, _Watch(asked)
        try:
            # Killed between saving and the callback, it is asked again.
            if watch.stops(here):
                return _result(here, Stop.CALLBACK)
            for stretch in stretches(job, begin):
                for here in stretch.passed:
                    stops = True
                    try:
                        stops = watch.stops(here)
                    finally:
                        here = _kept(stretch, here, save) if stops else here
                    if stops:
                        return _result(here, Stop.CALLBACK)
                here = stretch.end
                save(here)
                say(here.fraction, _words(here))
                if watch.stops(here):
                    return _result(here, Stop.CALLBACK)
            watch.ends(here)
        except BaseException as error:
            if here.steps:
                _hand_over(error, here)
            raise
    stopped = verdict(job, here)
    for remark in remarks(job, here, stopped):
        warnings.warn(f"fit: {remark}", stacklevel=2)
    return _result(here, *reason(job, here, stopped))


def _kept(stretch: Stretch, here: Snapshot, save: Callable[[Snapshot], None]) -> Snapshot:
    """What a callback saw amid a segment and ended there, as a snapshot to go on from."""
    if stretch.until is None:  # of a stream nobody knows how to go back in it
        return here
    here = stretch.until(here.steps)
    save(here)
    return here


class _Watch:
    """Calls a callback when it is due, and once more at the end."""

    def __init__(self, callback: Callback | None) -> None:
        self.callback, self.seen = callback, -1
        self.is_due = due_of(callback) if callback is not None else lambda _: False

    def stops(self, here: Snapshot) -> bool:
        """Calls the callback if it is due, and returns whether it asks to stop."""
        if self.callback is None or here.steps in (0, self.seen) or not self.is_due(here):
            return False
        self.seen = here.steps
        if self.callback.steps is not None and here.progress.best is not None:
            # In its turn it sees the parameters as they are.
            here = here._replace(progress=here.progress._replace(best=None))
        return bool(self.callback.call(_seen(here)))

    def ends(self, here: Snapshot) -> None:
        """Calls it where it has not seen the last steps."""
        if self.callback is not None and self.seen < here.steps:
            self.callback.call(_seen(here))


def _words(here: Snapshot) -> str:
    """The last value, and the last validation loss."""
    history = here.history
    said = [f"value {values[-1]:.4g}" for values in [history.value] if len(values)]
    losses = history.validation.get("loss", ())
    return ", ".join([*said, *(f"validation loss {loss:.4g}" for loss in losses[-1:])])


def _result(here: Snapshot, stopped: Stop, sentence: str | None = None) -> Fit:
    """The fit of a snapshot, of the best parameters if they are held."""
    fit = _fit(here, Ending(stopped, f"{sentence or stopped} {account(here)}"))
    params, state = jax.tree.map(jnp.asarray, (fit.params, fit.state))
    return fit._replace(params=params, state=state)


def _seen(here: Snapshot) -> Fit:
    """The fit of a snapshot for a callback, whose sentences are made when they are read."""
    stopped = Stop(int(here.progress.stopped))
    return _fit(here, Ending(stopped, lambda: f"{stopped} {account(here)}"))


def _fit(here: Snapshot, ending: Ending) -> Fit:
    progress = here.progress
    params, state = progress.best or (progress.params, progress.state)
    return Fit(params, state, here.history, ending)


def _hand_over(error: Any, here: Snapshot) -> None:
    """What was trained before an error, of the callback or of a full disk, goes with the error."""
    error.fit = _result(here, Stop.RUNNING)
    error.add_note(f"fit: what was trained, {here.steps} steps, is this error's attribute `fit`")
