"""A device that runs out of memory is given fewer examples at a time."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from fnn import devices
from fnn.training.door import door
from fnn.training.loop import Source
from fnn.training.plan import Plan
from fnn.training.sources import examples_at_once

T = TypeVar("T")


def within_memory(
    run: Callable[[Plan], T],
    plan: Plan,
    source_of_plan: Callable[[Plan], Source],
    meanwhile: Callable[[], Any],
) -> tuple[Plan, T]:
    """Calls `run(plan)`, and halves the examples at a time while the device has no room."""
    first = plan
    while True:
        try:
            with devices.lapack_restored():
                result = run(plan)
                meanwhile()
                result = jax.block_until_ready(result)
        except jax.errors.JaxRuntimeError as error:
            is_full = "RESOURCE_EXHAUSTED" in str(error)
            examples = _examples_of_a_step(source_of_plan(plan)) if is_full else 0
            if examples < 2:
                raise
            plan = plan._replace(chunk=-(-examples // 2))
        else:
            if plan.chunk != first.chunk:
                warnings.warn(
                    f"{door()}: the device ran out of memory; going on with "
                    f"{plan.chunk} examples at a time, whose sums are accumulated: the same steps "
                    "up to rounding (batch normalization takes its means over these). Try "
                    f"batch_size={plan.chunk} or a device with more memory",
                    stacklevel=5,
                )
            return plan, result


def _examples_of_a_step(source: Source) -> int:
    """The number of examples that a step evaluates together; no array is made to know it."""
    counts = []

    def count() -> None:
        zero = jnp.zeros((), jnp.int32)
        value_fn: Any = source.epoch(zero)(zero)
        counts.append(examples_at_once(value_fn))

    jax.eval_shape(count)
    return counts[0]
