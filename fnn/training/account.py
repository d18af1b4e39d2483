"""What is said of a training that has ended: the reason, the numbers, and what to try."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fnn import devices
from fnn.training.job import Job
from fnn.training.loop import Stop, fields_of
from fnn.training.snapshot import Snapshot


class Ending(int):
    """Why a training ended: a number equal to its `Stop`, that says more as a string."""

    reason: Stop
    text: str

    def __new__(cls, reason: Stop, text: str) -> "Ending":
        """The reason, and all that there is to say."""
        ending = super().__new__(cls, reason)
        ending.reason, ending.text = reason, text
        return ending

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
    return (
        f"After {steps} the value was {values[-1]:.6g} (at first {values[0]:.6g}), the largest "
        f"entry of the gradient {float(progress.slope):.2g} of the largest on the way."
    )


def reason(job: Job, here: Snapshot, stopped: Stop) -> str:
    """Why training ended; what was not finite is named."""
    if stopped != Stop.NON_FINITE or job.is_stream:
        return str(stopped)
    return f"{stopped} {_culprit(job, here)}"


def _culprit(job: Job, here: Snapshot) -> str:
    """What is not finite at the parameters that are returned, as a sentence."""
    source = job.plan.source(job.data, job.key, 0)
    epoch, position = divmod(here.steps, source.steps)
    value_fn: Any = source.epoch(jnp.int32(epoch))(jnp.int32(position))
    params = here.progress.params
    value, grad = _derivatives(value_fn, params)
    if not np.isfinite(value):
        return f"There the value is {value}."
    for path, leaf in jax.tree.leaves_with_path(grad):
        count = int((~jnp.isfinite(leaf)).sum())
        if not count:
            continue
        name = f"params{jax.tree_util.keystr(path)}"
        remedy = ""
        if _is_finite_forward(value_fn, params):
            remedy = (
                " Forward derivatives are finite there: try fnn.differential.forward(model), which "
                "takes them, or a jnp.where that gives the branch not taken a harmless argument."
            )
        return (
            f"There the value is {value:.6g}, and of its gradient {count} of {leaf.size} entries "
            f"at {name} are NaN or infinite.{remedy}"
        )
    return "There value and gradient are finite; the step that followed led out of what is."


@devices.jit
def _derivatives(value_fn, params):
    return jax.value_and_grad(value_fn)(params)


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
