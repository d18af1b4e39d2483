"""Two rules side by side on one task: their steps, their seconds, and what is seen on the way."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from fnn.play import task as tasks
from fnn.play.settings import Settings, takes
from fnn.play.task import Carry, Curvature, Look, Program, Task, Views

KEPT = 300
"""The most points of a curve or a path: more are not told apart in a picture."""

MOST = 20_000
"""The most steps from picture to picture, so that buttons are heard."""

READING = 3e-3
"""The seconds of a reading of the clock: calls of 0.1 ms are lost in it."""

DIVERGED = 1e6
"""A loss so many times that of the start is no longer a matter of patience."""


class Row(NamedTuple):
    """One point of the curves."""

    step: int
    seconds: float
    loss: float
    test: float
    slope: float


class Runner(NamedTuple):
    """One rule and where it stands.

    Attributes:
        rule: its name.
        numbers: those of its sliders.
        program: its compiled functions.
        carry: parameters, state and step.
        price: the seconds of one of its steps, as `_price_of` measures them.
        rows: its curves.
        path: parameters at the rows, flat.
        look: how it looks.
        curvature: the last one seen, None before.
        trouble: why it stopped, a sentence; empty while it learns.
    """

    rule: str
    numbers: dict[str, float]
    program: Program
    carry: Carry
    price: float
    rows: tuple[Row, ...]
    path: tuple[Float[np.ndarray, " P"], ...]
    look: Look
    curvature: Curvature | None
    trouble: str


class Slice(NamedTuple):
    """The loss on a plane through the start and the places of both rules.

    Attributes:
        losses: on a grid, row by row from the top.
        paths: of both rules, projected on the plane; the first and the last point lie in it.
        corners: from where to where the plane is seen, along each axis.
    """

    losses: Float[np.ndarray, "cells cells"]
    paths: tuple[Float[np.ndarray, "points 2"], ...]
    corners: Float[np.ndarray, "2 2"]


class Match(NamedTuple):
    """Two rules on a task."""

    settings: Settings
    task: Task
    views: Views
    runners: tuple[Runner, ...]
    slice: Slice | None


def begin(settings: Settings) -> Match:
    """Both rules at the start; programs that are not there yet are compiled."""
    task, network = tasks.task_of(settings), tasks.network_of(settings)
    views = tasks.views_of(network)
    runners = []
    for rule, numbers in settings.rules():
        size = settings.batch_size
        program = tasks.program_of(network, len(settings.seen), task.trained, size, rule)
        carry = program.start(numbers, task.params)
        price = _price_of(functools.partial(_advanced, program, numbers, task, settings, carry))
        look = _looked(views, task, settings, carry.params)
        runner = Runner(rule, numbers, program, carry, price, (), (), look, None, "")
        runners.append(_noted(runner))
    match = Match(settings, task, views, tuple(runners), None)
    return with_curvature(with_slice(match))


def forward(match: Match, steps: int) -> Match:
    """Both rules so many steps on."""
    return _each(match, lambda runner: _stepped(match, runner, steps))


def onward(match: Match) -> Match:
    """Both rules on to the next picture, by the pace that was chosen."""
    pace, speed = match.settings.pace, match.settings.speed
    if pace == "steps":
        return forward(match, speed)
    # Counted from the start, so that a rule whose steps are longer than this is not ahead.
    ends = max(runner.rows[-1].seconds for runner in match.runners) + speed / 1000

    def timed(runner: Runner) -> Runner:
        steps = int(ends / runner.price) - runner.rows[-1].step
        return _stepped(match, runner, min(steps, MOST)) if steps > 0 else runner

    return _each(match, timed)


def caught_up(match: Match) -> Match:
    """Both rules at the steps of a link, as a link leaves them."""
    steps = match.settings.first_steps, match.settings.second_steps
    pairs = zip(match.runners, steps, strict=True)
    runners = tuple(_stepped(match, runner, count) for runner, count in pairs)
    return match._replace(runners=runners)


def with_curvature(match: Match) -> Match:
    """With the Hessian's spectrum at both places, where the network is not too large."""
    if tasks.size_of(match.task.params) > tasks.MOST_CURVED:
        return match
    weight, train = match.settings.weight, match.task.train

    def curved(runner: Runner) -> Runner:
        seen = match.views.curvature(runner.carry.params, weight, train)
        return runner._replace(curvature=jax.tree.map(np.asarray, seen))

    return _each(match, curved)


def with_slice(match: Match) -> Match:
    """With the loss on the plane through the start and both places."""
    start = np.asarray(ravel_pytree(match.task.params)[0])
    ways = [np.stack(runner.path) - start for runner in match.runners]
    axes = _plane([way[-1] for way in ways])
    paths = tuple(way @ axes.T for way in ways)
    every = np.concatenate(paths)
    middle, half = (every.max(0) + every.min(0)) / 2, np.ptp(every, axis=0).max() / 2
    half = 1.35 * max(float(half), 0.5)
    corners = np.stack([middle - half, middle + half], -1).astype(np.float32)
    seen = match.views.on_slice(
        match.task.params, axes, corners, match.settings.weight, match.task.train
    )
    return match._replace(slice=Slice(np.asarray(seen), paths, corners))


def _plane(ends: list[Float[np.ndarray, " P"]]) -> Float[np.ndarray, "2 P"]:
    """Two directions at right angles whose plane has both ends, and any where they have none."""
    fixed = np.random.default_rng(0).standard_normal((2, len(ends[0])))
    axes: list[np.ndarray] = []
    for way in (*ends, *fixed):
        rest = way - sum((axis * (axis @ way) for axis in axes), np.zeros_like(way))
        length = np.linalg.norm(rest)
        if np.isfinite(length) and length > 1e-4 * max(1e-3, float(np.linalg.norm(way))):
            axes.append(rest / length)
    return np.stack(axes[:2]).astype(np.float32)


# One rule -----------------------------------------------------------------------------------------


def _each(match: Match, change: Any) -> Match:
    """Both runners changed, but for those in trouble."""
    runners = (runner if runner.trouble else change(runner) for runner in match.runners)
    return match._replace(runners=tuple(runners))


def _stepped(match: Match, runner: Runner, steps: int) -> Runner:
    """So many steps on, with a look at it."""
    carry = _advanced(
        runner.program, runner.numbers, match.task, match.settings, runner.carry, steps
    )
    return _judged(match, runner, carry)


def _price_of(run: Callable[[int], Any]) -> float:
    """The seconds of a step: the best of some readings, less those of a call without steps."""
    # Measured before the start, as those of a run alone: the seconds of the few steps between two
    # pictures are those of a call, 0.3 ms, in which adam takes 30 steps.

    def reading(steps: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(run(steps))
        return time.perf_counter() - began

    steps, empty = 8, min(reading(0) for _ in range(5))
    while min(reading(steps), reading(steps)) < READING and steps < 4096:
        steps *= 2
    return max((min(reading(steps) for _ in range(7)) - empty) / steps, 1e-7)


def _advanced(
    program: Program, numbers: dict, task: Task, settings: Settings, carry: Carry, steps: int
) -> Carry:
    """The compiled steps of a rule."""
    return program.advance(numbers, settings.weight, task.train, task.key, carry, jnp.int32(steps))


def _looked(views: Views, task: Task, settings: Settings, params: PyTree) -> Look:
    """How a network looks."""
    seen = task.train, task.test, task.grid, task.thumbs
    return jax.tree.map(np.asarray, views.look(params, settings.weight, seen))


def _judged(match: Match, runner: Runner, carry: Carry) -> Runner:
    """With a look at where it has come to; what is no number stops it where it was, and is said."""
    look = _looked(match.views, match.task, match.settings, carry.params)
    loss, slope, first = float(look.loss), float(look.slope), runner.rows[0].loss
    if math.isfinite(loss) and math.isfinite(slope) and loss < DIVERGED * (1 + first):
        return _noted(runner._replace(carry=carry, look=look))
    if not math.isfinite(loss):
        what = "is not finite"
    elif not math.isfinite(slope):
        what = "has a gradient that is not finite"
    else:
        what = f"has grown to {loss:.1e}"
    numbers = " or ".join(
        f"a {'smaller' if name == 'learning_rate' else 'larger'} {name.replace('_', ' ')}"
        for name in takes(runner.rule)
    )
    said = f"{runner.rule}: the loss {what} at step {int(carry.step)}"
    return runner._replace(trouble=f"{said}; try {numbers or 'another rule'}, and reset")


def _noted(runner: Runner) -> Runner:
    """With a new point of its curves and its path; of too many, every other one is dropped."""
    look = runner.look
    numbers = float(look.loss), float(look.test), float(look.slope)
    step = int(runner.carry.step)
    row = Row(step, step * runner.price, *numbers)
    flat = np.asarray(ravel_pytree(runner.carry.params)[0])
    rows, path = (*runner.rows, row), (*runner.path, flat)
    if len(rows) > KEPT:
        rows, path = (*rows[:-1:2], rows[-1]), (*path[:-1:2], path[-1])
    return runner._replace(rows=rows, path=path)
