"""The programs of a rule for all its settings: one for each combination of static values.

`lanes` and `alone` know numbers alone, which are traced. So a variant of a rule is an entrant that
has the static values built in. It is told how long a run is, too, for rules with a schedule: their
problem's budget is that of the run, in steps.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from fnn.problems import Budget, Problem
from fnn.race import spaces
from fnn.race.alone import Timing
from fnn.race.compiling import Setting
from fnn.race.entrants import Entrant
from fnn.race.lanes import Outcome, Programs, joined

Compile = Callable[[Entrant, Setting, int], Programs]

_LENGTH = "steps of the run"
"""A number beside the hyperparameters. None of them can bear this name, with its spaces."""


def lasting(setting: Setting, steps: float) -> dict[str, Any]:
    """The setting in a run of so many steps."""
    return {**setting, _LENGTH: steps}


def programs(
    compile_one: Compile, entrant: Entrant, first: Sequence[Setting], most: int
) -> Programs:
    """The programs of a rule; those of the first settings are compiled at once, others when asked.

    Args:
        compile_one: compiles a variant for settings with the names of one, and so many lanes at
            most.
        entrant: the rule.
        first: some settings.
        most: the number of lanes, at most.

    Returns:
        Programs for all settings of the rule, those that are not `lasting` for runs of any length.
    """
    compiled: dict[str, Programs] = {}

    def variant(setting: Setting) -> Programs:
        bound, numbers = at(entrant, setting)
        if bound.name not in compiled:
            compiled[bound.name] = compile_one(bound, numbers, most)
        return compiled[bound.name]

    def run(settings: Sequence[Setting], seeds: Sequence[int], budget: Budget) -> Outcome:
        groups: dict[str, list[int]] = {}
        for i, setting in enumerate(settings):
            groups.setdefault(at(entrant, setting)[0].name, []).append(i)
        parts = [
            variant(settings[group[0]]).run(
                [at(entrant, settings[i])[1] for i in group], [seeds[i] for i in group], budget
            )
            for group in groups.values()
        ]
        return _in_order(parts, list(groups.values()))

    def alone(setting: Setting, seeds: Sequence[int], steps: Sequence[int]) -> Timing:
        return variant(setting).alone(at(entrant, setting)[1], seeds, steps)

    for setting in first:
        variant(setting)
    return Programs(run, alone)


def at(entrant: Entrant, setting: Setting) -> tuple[Entrant, dict[str, float]]:
    """The variant of a rule for a setting, named after its static values, and the numbers left."""
    names = {k for k in setting if k in entrant.space and spaces.is_static(entrant.space[k])}
    static = {k: v for k, v in setting.items() if k in names}
    # In the words for static values, True and 1 are two.
    name = f"{entrant.name} {static}" if static else entrant.name
    numbers = {_LENGTH: 1.0} | {k: v for k, v in setting.items() if k not in names}
    return entrant._replace(name=name, make=functools.partial(_make, entrant, static)), numbers


def _make(
    entrant: Entrant, static: Mapping[str, Any], problem: Problem, /, **numbers: Any
) -> optax.GradientTransformation:
    """The rule at a setting in parts, on the problem with the run's own budget."""
    budget = Budget(numbers.pop(_LENGTH), "steps")
    return entrant.make(problem._replace(budget=budget), **static, **numbers)


def _in_order(parts: Sequence[Outcome], groups: Sequence[Sequence[int]]) -> Outcome:
    """The outcomes of groups of lanes as one, each lane at its place."""
    order = np.argsort(np.concatenate(groups))
    return Outcome(*(rows[order] for rows in joined(parts, len(order))))
