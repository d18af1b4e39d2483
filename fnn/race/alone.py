"""One rule on one problem alone, without `vmap`: a run that tells how many seconds it takes.

It is compiled and warm, and has none of the looks at the losses that only the race needs.
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


class Alone(NamedTuple):
    """What runs took that had the machine for themselves.

    Attributes:
        seconds: of each run, warm.
        compile_seconds: of their program.
    """

    seconds: list[float]
    compile_seconds: float


def alone(
    problem: Problem, entrant: Entrant, setting: Setting
) -> Callable[[Setting, Sequence[int], int], Alone]:
    """Compiles a run of a rule on a problem without `vmap`, to measure its seconds.

    Args:
        problem: what is trained.
        entrant: the rule.
        setting: see `lanes.programs`.

    Returns:
        `alone` of `lanes.Programs`.
    """
    train = jax.tree.map(jnp.asarray, problem.train)

    def begin(setting, key):
        return start(entrant.make(problem, **setting), problem.init(key), keep_best=False)

    def advanced(progress, setting, key, steps, train):
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
    one = devices.compiled(jax.jit(advanced).trace(begun, template, key, number, train), OPTIONS)
    compile_seconds = time.perf_counter() - began

    def seconds(setting: Setting, seed: int, steps: int) -> float:
        given = traced(setting), jax.random.key(seed), jnp.int32(steps), train
        given = jax.block_until_ready((begin_one(*given[:2]), *given))
        began = time.perf_counter()
        jax.block_until_ready(one(*given))
        return time.perf_counter() - began

    def run(setting: Setting, seeds: Sequence[int], steps: int) -> Alone:
        seconds(setting, seeds[0], 1)
        return Alone([seconds(setting, seed, steps) for seed in seeds], compile_seconds)

    return run
