"""What is said of a training that has ended: the reason, the numbers, and what to try."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import PyTree

from fnn import devices
from fnn.training.job import Job
from fnn.training.loop import Stop, fields_of
from fnn.training.snapshot import Snapshot


class Ending(int):
    """Why a training ended: a number equal to its `Stop`, that says more as a string."""

    reason: Stop
    _text: str | Callable[[], str]

    def __new__(cls, reason: Stop, text: str | Callable[[], str]) -> "Ending":
        """The reason, and all that there is to say, or what says it when it is asked."""
        ending = super().__new__(cls, reason)
        ending.reason, ending._text = reason, text
        return ending

    @property
    def text(self) -> str:
        """The reason and the numbers, in sentences."""
        if not isinstance(self._text, str):
            self._text = self._text()
        return self._text

    def __reduce__(self) -> tuple:
        """A copy says the same."""
        return Ending, (self.reason, self.text)

    @property
    def name(self) -> str:
        """The name of the reason."""
        return self.reason.name

    def __str__(self) -> str:
        """The reason and the numbers, in sentences."""
        return self.text

    def __repr__(self) -> str:
        """The reason, as a `Stop` shows it."""
        return repr(self.reason)

    def __format__(self, spec: str) -> str:
        """As in a string."""
        return format(self.text, spec)


def account(here: Snapshot) -> str:
    """The last value, the relative gradient, and the steps, as a sentence."""
    progress, values = here.progress, here.history.value
    steps = f"{here.steps} step{'' if here.steps == 1 else 's'}"
    accepted, rejected = (total(progress.state, name) for name in ("accepted", "rejected"))
    if accepted is not None and rejected is not None:
        steps += f" ({accepted} accepted, {rejected} rejected)"
    if not len(values):
        return f"After {steps}."
    said = f"After {steps} the value was {values[-1]:.6g} (at first {values[0]:.6g})"
    if np.isnan(slope := float(progress.slope)):  # between two looks nobody knows it
        return f"{said}."
    return f"{said}, the largest entry of the gradient {slope:.2g} of the largest on the way."


def verdict(job: Job, here: Snapshot) -> Stop:
    """Why a training ended whose last segment is over."""
    stopped = Stop(int(here.progress.stopped))
    if stopped != Stop.RUNNING:
        return stopped
    return Stop.BUDGET if job.is_through(here) else Stop.DATA


def reason(job: Job, here: Snapshot, stopped: Stop) -> tuple[Stop, str]:
    """Why training ended, and the sentence; what was not finite, or vanished, is named."""
    if job.is_stream:
        return stopped, str(stopped)
    if stopped == Stop.NON_FINITE:
        return stopped, f"{stopped} {_culprit(job, here)}"
    if stopped in (Stop.CONVERGED, Stop.STALLED) and (sentence := _underflow(job, here)):
        return Stop.STALLED, sentence
    return stopped, str(stopped)


def _underflow(job: Job, here: Snapshot) -> str | None:
    """What is 0 at the end because its dtype holds nothing so small, as a sentence."""
    leaves = map(np.asarray, jax.tree.leaves(here.progress.steepest))  # NumPy compiles nothing
    steepest = [float(most.max(initial=0)) for most in leaves]
    is_zero = here.history.value[-1] == 0
    if all(steepest) and not is_zero:
        return None
    value_fn, params = _value_fn_at(job, here), here.progress.params
    if not is_zero and not any(
        most == 0 and is_read
        for most, is_read in zip(steepest, _read(value_fn, params), strict=True)
    ):
        return None
    value, sizes = _steepness(value_fn, params)
    dtype, factor = value.dtype, _factor(value.dtype)
    _, magnified = _steepness(factor * value_fn, params)
    magnified = jax.tree.leaves(magnified)
    # As in `loop.judge`: at a minimum, the gradient is a small part of the largest on the way.
    rounding = float(np.finfo(np.float32).eps) ** 0.5
    is_small = max(map(float, magnified)) / factor <= rounding * max(steepest)
    if value == 0 and not is_small:
        return (
            f"The value underflows in {dtype}: it is 0, and its gradient is not, so that "
            f"this is no minimum. {_UNITS}"
        )
    leaves = jax.tree.leaves_with_path(sizes)
    for most, (path, size), other in zip(steepest, leaves, magnified, strict=True):
        if most == 0 and not size.any() and other > 0:  # one that vanished on the way is small
            return (
                f"The gradient at params{jax.tree_util.keystr(path)} underflows in {size.dtype}: "
                f"it is 0, and {factor:.2g} times as large it is not, so that this is no minimum. "
                f"{_UNITS}"
            )
    return None


def _read(value_fn: Any, params: PyTree) -> list[bool]:
    """Of each leaf, whether a derivative reaches it: nothing is compiled to know it."""
    program = jax.make_jaxpr(jax.grad(value_fn))(params).jaxpr
    made_of_numbers = {
        id(v)
        for eqn in program.eqns
        if all(isinstance(number, jex.Literal) for number in eqn.invars)
        for v in eqn.outvars
    }
    return [
        not isinstance(v, jex.Literal) and id(v) not in made_of_numbers for v in program.outvars
    ]


_UNITS = (
    "Try other units: outputs and targets times a constant, inputs and parameters near 1; or "
    "float64."
)


def _factor(dtype: Any) -> float:
    """What carries the square of a number of such a dtype into its range, without rounding."""
    return 2.0 ** (jnp.finfo(dtype).maxexp // 2)


def _value_fn_at(job: Job, here: Snapshot) -> Any:
    """The value function of the step that would come next."""
    source = job.plan.source(job.data, job.key, 0)
    epoch, position = divmod(here.steps, source.steps)
    return source.epoch(jnp.int32(epoch))(jnp.int32(position))


def _culprit(job: Job, here: Snapshot) -> str:
    """What is not finite at the parameters that are returned, as a sentence."""
    value_fn, params = _value_fn_at(job, here), here.progress.params
    value, grad = _derivatives(value_fn, params)
    if not np.isfinite(value):
        return f"There the value is {value}.{_overflow(value_fn, params, value.dtype)}"
    for path, leaf in jax.tree.leaves_with_path(grad):
        count = int((~jnp.isfinite(leaf)).sum())
        if not count:
            continue
        name = f"params{jax.tree_util.keystr(path)}"
        remedy = _overflow(value_fn, params, leaf.dtype)
        if not remedy and _is_finite_forward(value_fn, params):
            remedy = (
                " Forward derivatives are finite there: try fnn.differential.forward(model), which "
                "takes them, or a jnp.where that gives the branch not taken a harmless argument."
            )
        return (
            f"There the value is {value:.6g}, and of its gradient {count} of {leaf.size} entries "
            f"at {name} are NaN or infinite.{remedy}"
        )
    return "There value and gradient are finite; the step that followed led out of what is."


def _overflow(value_fn: Any, params: PyTree, dtype: Any) -> str:
    """The sentence that a number only leaves the range of its dtype, or nothing."""
    factor = _factor(dtype)
    _, grad = _derivatives(1 / factor * value_fn, params)
    if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grad)):
        return ""
    return (
        f" It overflows in {dtype}: the gradient of {1 / factor:.2g} times it is finite. {_UNITS}"
    )


@devices.jit
def _derivatives(value_fn, params):
    return jax.value_and_grad(value_fn)(params)


@devices.jit
def _steepness(value_fn, params):
    """The value, and of each leaf the largest entry of the gradient."""
    value, grad = jax.value_and_grad(value_fn)(params)
    return value, jax.tree.map(lambda leaf: jnp.max(jnp.abs(leaf), initial=0), grad)


@devices.jit
def _slope_forward(value_fn, params):
    return jax.jvp(value_fn, (params,), (jax.tree.map(jnp.ones_like, params),))[1]


def _is_finite_forward(value_fn: Any, params: PyTree) -> bool:
    """Whether the derivative along a direction in which all parameters move is finite."""
    return bool(jnp.isfinite(_slope_forward(value_fn, params)))


def total(state: PyTree, name: str) -> int | None:
    """The sum of a counter over the `Info`s in a rule's state; None where there is none."""
    numbers = [int(value) for owner, value in fields_of(state, name) if owner == "Info"]
    return sum(numbers) if numbers else None
