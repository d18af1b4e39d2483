"""One rule on one problem alone, without `vmap`: a run that tells how many seconds it takes.

The run is compiled and warm, and it evaluates none of the losses that only the race needs.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn import devices
from fnn.problems import Problem
from fnn.race.compiling import ONCE, OPTIONS, Setting, source, traced
from fnn.race.entrants import Entrant
from fnn.training import Limits, advance, start


class Timing(NamedTuple):
    """The seconds of warm runs that had the machine for themselves, and of their compilation."""

    seconds: list[float]
    compile_seconds: float


def alone(
    problem: Problem, entrant: Entrant, setting: Setting
) -> Callable[[Setting, Sequence[int], int], Timing]:
    """The function `alone` of `lanes.Programs`, for settings with the names of this one."""
    train = jax.tree.map(jnp.asarray, problem.train)

    def begin(setting, key):
        return start(entrant.make(problem, **setting), problem.init(key), keep_best=False)

    def walk(progress, setting, key, steps, train):
        return advance(
            entrant.make(problem, **setting),
            source(problem, entrant, train, key),
            lambda _: {},
            progress,
            0,
            Limits(steps, 1),
            round_end=lambda _: steps,
            capacity=(1, 1),
        )[0]

    began = time.perf_counter()
    begin_one = devices.jit(begin, compiler_options=devices.compiler_options(ONCE))
    key = jax.random.key(0)
    template = traced(setting)
    begun = jax.eval_shape(begin_one, template, key)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    one = devices.compiled(jax.jit(walk).trace(begun, template, key, number, train), OPTIONS)
    compile_seconds = time.perf_counter() - began

    def seconds(setting: Setting, seed: int, steps: int) -> float:
        chosen, key = traced(setting), jax.random.key(seed)
        inputs = begin_one(chosen, key), chosen, key, jnp.int32(steps), train
        inputs = jax.block_until_ready(inputs)
        began = time.perf_counter()
        jax.block_until_ready(one(*inputs))
        return time.perf_counter() - began

    def run(setting: Setting, seeds: Sequence[int], steps: int) -> Timing:
        seconds(setting, seeds[0], 1)  # The first call of a program is slower than all others.
        return Timing([seconds(setting, seed, steps) for seed in seeds], compile_seconds)

    return run
