"""One rule on one problem alone, without `vmap`: a run that tells how many seconds it takes.

The run is compiled and warm, and it evaluates none of the losses that only the race needs. On a CPU
its seconds are those in which it had a processor, where these are fewer: a small program has one
thread, and waits while other processes have the processors. What else a rule waits for, as in a
Python function that is called back and sleeps, is not counted either.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn import devices
from fnn.problems import Problem
from fnn.race.compiling import ONCE, Setting, source, traced
from fnn.race.entrants import Entrant
from fnn.training import Limits, advance, start

_IS_FINE = time.get_clock_info("process_time").resolution < 1e-4
"""Whether the system counts the time of processors finely; some do so in ticks of 16 ms."""


class Timing(NamedTuple):
    """The seconds of warm runs, one after the other, and of their compilation.

    Attributes:
        seconds: of each run.
        compile_seconds: of the program.
        waited: the share of all runs' time in which they waited for a processor.
    """

    seconds: list[float]
    compile_seconds: float
    waited: float


RunAlone = Callable[[Setting, Sequence[int], Sequence[int]], Timing]
"""Measures runs of a setting, one after the other, from seeds and each of its number of steps."""


def alone(problem: Problem, entrant: Entrant, setting: Setting) -> RunAlone:
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
    one = devices.compiled(devices.traced(walk, begun, template, key, number, train))
    compile_seconds = time.perf_counter() - began

    def reading(setting: Setting, seed: int, steps: int) -> tuple[float, float]:
        chosen, key = traced(setting), jax.random.key(seed)
        inputs = begin_one(chosen, key), chosen, key, jnp.int32(steps), train
        inputs = jax.block_until_ready(inputs)
        began, worked = time.perf_counter(), time.process_time()
        jax.block_until_ready(one(*inputs))
        return time.perf_counter() - began, time.process_time() - worked

    def run(setting: Setting, seeds: Sequence[int], steps: Sequence[int]) -> Timing:
        reading(setting, seeds[0], 1)  # The first call of a program is slower than all others.
        readings = [reading(setting, *each) for each in zip(seeds, steps, strict=True)]
        passed = sum(wall for wall, _ in readings)
        if jax.default_backend() != "cpu" or not _IS_FINE:  # elsewhere they wait for the device
            return Timing([wall for wall, _ in readings], compile_seconds, 0.0)
        seconds = [min(each) for each in readings]
        return Timing(seconds, compile_seconds, 1 - sum(seconds) / passed)

    return run
