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
from fnn.race.compiling import Setting
from fnn.race.entrants import Entrant
from fnn.race.lanes import Outcome, Programs

Compile = Callable[[Entrant, Setting, int], Programs]

_LENGTH = "steps of the run"
"""A number beside the hyperparameters. None of them can bear this name, with its spaces."""


def lasting(setting: Setting, steps: float) -> dict[str, Any]:
    """The setting in a run of so many steps."""
    return {**setting, _LENGTH: steps}


def programs(compile_one: Compile, one: Entrant, first: Sequence[Setting], most: int) -> Programs:
    """The programs of a rule; those of the first settings are compiled at once, others when asked.

    Args:
        compile_one: compiles a variant for settings with the names of one, and so many lanes.
        one: the rule.
        first: some settings.
        most: the number of lanes.

    Returns:
        Programs for all settings of the rule, those that are not `lasting` for runs of any length.
    """
    compiled: dict[str, Programs] = {}

    def variant(setting: Setting) -> Programs:
        static = static_part(one, setting)
        key = repr(static)  # True and 1 are two values
        if key not in compiled:
            made = functools.partial(_make, one, static)
            name = f"{one.name} {key}" if static else one.name
            compiled[key] = compile_one(one._replace(name=name, make=made), numbers(setting), most)
        return compiled[key]

    def numbers(setting: Setting) -> dict[str, float]:
        static = static_part(one, setting)
        return {_LENGTH: 1.0} | {k: v for k, v in setting.items() if k not in static}

    def run(settings: Sequence[Setting], seeds: Sequence[int], *terms: Any) -> Outcome:
        groups: dict[str, list[int]] = {}
        for i, setting in enumerate(settings):
            groups.setdefault(repr(static_part(one, setting)), []).append(i)
        parts = [
            variant(settings[group[0]]).run(
                [numbers(settings[i]) for i in group], [seeds[i] for i in group], *terms
            )
            for group in groups.values()
        ]
        return _in_order(parts, list(groups.values()))

    def alone(setting: Setting, *terms: Any) -> Any:
        return variant(setting).alone(numbers(setting), *terms)

    for setting in first:
        variant(setting)
    return Programs(run, alone)


def static_part(one: Entrant, setting: Setting) -> dict[str, Any]:
    """The hyperparameters of a setting that a program is compiled for."""
    return {k: v for k, v in setting.items() if k in one.space and spaces.is_static(one.space[k])}


def _make(
    one: Entrant, static: Mapping[str, Any], problem: Problem, **numbers: Any
) -> optax.GradientTransformation:
    """The rule at a setting in parts, on the problem with the run's own budget."""
    budget = Budget(numbers.pop(_LENGTH), "steps")
    return one.make(problem._replace(budget=budget), **static, **numbers)


def _in_order(parts: Sequence[Outcome], groups: Sequence[Sequence[int]]) -> Outcome:
    """The outcomes of groups of lanes as one, each lane at its place."""
    order = np.argsort(np.concatenate(groups))
    return Outcome(*(np.concatenate(rows)[order] for rows in zip(*parts, strict=True)))
