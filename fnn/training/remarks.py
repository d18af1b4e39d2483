"""What is almost surely not what was meant, and is seen only once a training has ended."""

import jax
import jax.numpy as jnp
import numpy as np

from fnn.dtypes import widest
from fnn.training.account import total
from fnn.training.job import Job
from fnn.training.loop import Stop
from fnn.training.snapshot import Snapshot


def remarks(job: Job, here: Snapshot, stopped: Stop) -> list[str]:
    """What there is to warn of, each in a sentence or two and with what to try."""
    made = [_of_changes(here)]
    if stopped == Stop.STALLED or (stopped == Stop.CONVERGED and np.isfinite(job.limits.goal)):
        made.append(_of_rounding(here, job.limits.goal))
    if stopped == Stop.BUDGET:
        made.append(_of_a_rise(job, here))
    return [remark for remark in made if remark is not None]


def _of_a_rise(job: Job, here: Snapshot) -> str | None:
    """A budget that was spent on going up; of noisy values, to more than twice as high."""
    first, last = here.round_values
    if last > first + (abs(first) if job.is_noisy else 0):
        return (
            f"all steps were taken, and the value rose from {first:.4g} to {last:.4g}. Try a "
            "smaller learning rate, or more damping."
        )
    return None


def _of_changes(here: Snapshot) -> str | None:
    """Steps that were changed after their rule had judged them: more than one."""
    # What makes such a step is legal, and the rule sees it only afterwards, by the parameters. One
    # may come with a state from before, and one in a hundred may be rounding.
    changed, accepted = (total(here.progress.state, name) or 0 for name in ("changed", "accepted"))
    if changed > max(1, accepted // 100):
        return (
            f"of {accepted} steps that the rule accepted, {changed} were changed before they "
            "were taken, by what follows the rule in a chain or wraps it: it judged other steps, "
            "and where these brought much more its damping learned nothing. Try the "
            "transformation before the rule; rules.only for leaves that stay; for bounds "
            "rules.bounded; or a rule that judges nothing, as rules.gauss_newton."
        )
    return None


def _of_rounding(here: Snapshot, goal: float) -> str | None:
    """A value that stalled because its dtype has no more digits."""
    # A value below eps times the first one is a sum of residuals below sqrt(eps) of what they were:
    # a minimum that is not zero is hardly ever as low, in comparison to where training began.
    dtype = widest(*jax.tree.leaves(here.progress.params))
    first, lowest = here.history.value[0], np.nanmin(here.history.value)
    if dtype == jnp.float64 or not 0 < lowest <= jnp.finfo(dtype).eps * first:
        return None
    aim = f", above the goal of {goal:.3g}" if np.isfinite(goal) else ""
    return (
        f"{dtype} has no more digits: the value fell from {first:.2g} to {lowest:.2g}{aim}, "
        "and what is left is rounding. Try float64: jax.config.update('jax_enable_x64', True) at "
        "the start of the program, and parameters and data made after it."
    )
