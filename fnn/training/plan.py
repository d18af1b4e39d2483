"""The compiled programs of `fit`, and the plan by which JAX finds them again."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, PyTree

from fnn import devices
from fnn.objective import ValueFunction
from fnn.training import loop
from fnn.training.loop import Limits, Progress, Records, Source, Stop
from fnn.training.placement import everywhere, split
from fnn.training.sources import Metric, chunked, evaluation_of, source_of, source_of_batches
from fnn.training.streams import Batches


class Plan(NamedTuple):
    """The static argument of the compiled programs, by whose identity JAX finds them again."""

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
        """Whether other processes run the same programs."""
        return self.sharding is not None and not self.sharding.is_fully_addressable

    def source(self, data: PyTree, key: Array | None, first: int | Array) -> Source:
        """The value functions of the data, or of batches before which `first` steps were taken."""
        if isinstance(data, Batches):
            source = source_of_batches(self.objective, data, first=first, key=key)
        else:
            source = source_of(self.objective, data, batch_size=self.batch_size, key=key)

        def epoch(number: Array) -> Callable[[Array], ValueFunction]:
            value_fn_at: Any = source.epoch(number)
            return lambda position: self._arranged(value_fn_at(position))

        return Source(source.steps, epoch)

    def evaluation(self, validation: PyTree) -> Callable[[Progress], dict[str, Array]]:
        """The function that looks at the training after each round."""
        return evaluation_of(self.objective, self.metrics, validation, self.prepare, self.chunk)

    def at_home(self, progress: Progress, records: Records) -> tuple[Progress, Records]:
        """Puts what a program returns where it lay, so that the next call compiles nothing."""
        if self.sharding is None or self.layout is None:
            return progress, records
        home = jax.tree.unflatten(jax.tree.structure(progress), self.layout)
        constrain = jax.lax.with_sharding_constraint
        return constrain(progress, home), constrain(records, everywhere(self.sharding))

    def _arranged(self, value_fn: ValueFunction) -> ValueFunction:
        """A step's value function, its examples split over devices and cut to what memory holds."""
        return chunked(split(value_fn, self.sharding), self.chunk)


start = devices.jit(loop.start, static_argnames=("rule", "keep_best"))


def rounds(
    plan: Plan,
    capacity: tuple[int, int],
    data: PyTree | Batches,
    validation: PyTree,
    key: Array | None,
    progress: Progress,
    first: int | Array,
    limits: Limits,
) -> tuple[Progress, Records]:
    """Trains for some rounds; batches of a stream are part of a round, after which none ends."""
    source, every = plan.source(data, key, first), plan.every
    is_part = isinstance(data, Batches)
    if is_part:
        first, every, validation = 0, 1, None
    round_steps = every * source.steps
    progress, records = loop.advance(
        plan.rule,
        source,
        plan.evaluation(validation),
        progress,
        first,
        limits,
        round_end=lambda r: (first // round_steps + r + 1) * round_steps - first,
        capacity=capacity,
    )
    if is_part:
        records = records._replace(rounds=jnp.zeros_like(records.rounds))
    return plan.at_home(progress, records)


advance = devices.jit(rounds, static_argnames=("plan", "capacity"))


@functools.partial(devices.jit, static_argnames="plan")
def look(plan, validation, progress, goal, patience):
    """Ends a round of a stream: the goal, and what is looked at."""
    running = progress.stopped == Stop.RUNNING
    verdict = jnp.where(running & goal, Stop.GOAL, progress.stopped).astype(jnp.int32)
    progress = progress._replace(stopped=verdict)
    progress, evaluated = loop.look(plan.evaluation(validation), progress, patience)
    evaluated = {name: value[None] for name, value in evaluated.items()}
    records = Records(jnp.zeros(0), progress.step[None], evaluated, jnp.ones((), jnp.int32))
    return plan.at_home(progress, records)
