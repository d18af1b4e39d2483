"""The search for a rule's setting: successive halving over settings, on several seeds.

    round 1       the usual values of the field, and settings that cover the space evenly
    rounds 2, 3   settings around the best so far, ever closer; where it is at an end of what was
                  tried of a logarithmic range, the decade beyond
    final         the better half of all settings, in runs that are four times as long

The terms are the same for every rule, whatever it has to tune: a search spends what so many whole
runs may spend, `trials` of them, a third of it in the rounds and two thirds in the final. Where the
steps of a rule are so dear that a run in the rounds would have fewer than ten, which tell nothing,
there is no final: the rounds spend all, on fewer settings in longer runs. A setting is judged by
the median of its lowest validation losses over the tuning seeds. All of it follows from the losses,
so that a search that was stopped goes on as if it had not been.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization" (2016), arXiv:1502.07943, for the halving; Hammersley (1960),
doi:10.1111/j.1749-6632.1960.tb42846.x, for the points.

Differs: new settings join in the rounds, where the source draws all of them beforehand; there are
two lengths of runs, so that the last one is long enough to be trusted; runs begin anew, so that
schedules are those of their length.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import qmc

from fnn.race import spaces
from fnn.race.entrants import Entrant
from fnn.race.protocol import FEWEST, TUNING_SEEDS
from fnn.race.records import Run

_FEWEST_SETTINGS = 6
"""Settings at least, so that there are two in each round however little may be spent."""
_MORE = 3
"""How often one point more is drawn where some settings are not new, before there are many."""
_MANY = 500
"""Points that come by all values of a space with few, of which there are up to ten or so."""
_ALIKE = 1e-3
"""The share of a range within which two numbers are one. The third round parts them by a tenth."""


class Rungs(NamedTuple):
    """The plan of a search.

    Attributes:
        rounds: the number of new settings in each round.
        finalists: the number of settings in the final; 0 if there is none.
        short: the length of a run in the rounds, as a share of a whole one.
        long: the same in the final.
    """

    rounds: tuple[int, ...]
    finalists: int
    short: float
    long: float


def rungs(entrant: Entrant, trials: int, steps: float = math.inf) -> Rungs | None:
    """The plan of a search that spends as much as so many whole runs.

    Args:
        entrant: the rule.
        trials: the number of whole runs; more of them try more settings.
        steps: about how many steps a whole run has.

    Returns:
        The plan, or None if there is nothing to choose from, or nothing to spend. A space of few
        values has fewer settings in longer runs, at most whole ones.

    Example:
        >>> from fnn.race.entrants import entrant
        >>> plan = rungs(entrant("adam"), 5)
        >>> print(plan.rounds, plan.finalists, f"{plan.short:.3f} {plan.long:.3f}")
        (4, 2, 2) 4 0.104 0.417
    """
    possible = _size(entrant)
    if trials == 0 or possible < 2:
        return None
    spent = trials / len(TUNING_SEEDS)
    rounds = _rounds(possible, 2 * (4 * trials // 5))
    short = min(1.0, spent / 3 / sum(rounds))
    if round(short * min(steps, 1e9)) < FEWEST:
        rounds = _rounds(possible, 2 * (3 * trials // 5))
        return Rungs(rounds, 0, min(1.0, spent / sum(rounds)), 0.0)
    finalists = max(2, sum(rounds) // 2)
    return Rungs(rounds, finalists, short, min(1.0, 2 * spent / 3 / finalists))


def _rounds(possible: float, wanted: int) -> tuple[int, ...]:
    """The new settings of each round; one round has all of them where they are few."""
    wanted = max(_FEWEST_SETTINGS, wanted)
    if possible <= wanted:
        return (int(possible),)
    closer = max(2, wanted // 4)
    return wanted - 2 * closer, closer, closer


def settings(entrant: Entrant, trials: int, steps: float = math.inf) -> list[dict[str, Any]]:
    """The settings of the first round, or the defaults alone where there is no search.

    Args:
        entrant: the rule that they are of.
        trials: what the search may spend, in whole runs; 0 for the defaults.
        steps: about how many steps a whole run has.

    Returns:
        The settings. The defaults come first, if the rule has any, with the middle of the range for
        what they do not name; the others cover the space evenly.

    Example:
        >>> from fnn.race.entrants import entrant
        >>> [round(s["learning_rate"], 4) for s in settings(entrant("adam"), 5)]
        [0.001, 0.0464, 0.01, 0.0022]
    """
    plan, usual = rungs(entrant, trials, steps), _usual(entrant)
    if plan is None:
        return [dict(entrant.defaults) if trials == 0 else usual]
    begun = [usual] if entrant.defaults else []
    missing = plan.rounds[0] - len(begun)
    return begun + _between(entrant.space, *_corners(entrant.space), begun, missing)


def closer(
    space: spaces.Space,
    tried: Sequence[dict[str, Any]],
    losses: Float[np.ndarray, "tried seeds"],
    number: int,
    after: int,
) -> list[dict[str, Any]]:
    """The settings of a later round.

    Args:
        space: the ranges of the hyperparameters.
        tried: the settings so far.
        losses: what came of them, infinity where a run diverged.
        number: how many settings are wanted.
        after: the number of rounds before; each looks half as far from the best as the one before.

    Returns:
        New settings, fewer where the space has no more: around the best one so far, or anywhere if
        none has a finite loss.

    Example:
        >>> tried = [{"rate": 0.01}, {"rate": 0.1}]
        >>> losses = np.array([[2.0], [1.0]])
        >>> [f"{s['rate']:.2f}" for s in closer({"rate": (0.01, 0.1)}, tried, losses, 2, 1)]
        ['0.56', '0.18']
    """
    low, high = _corners(space)
    best = int(ranking(losses)[0])
    if np.isfinite(losses[best]).all():
        places = _places(space, tried)
        ends = [
            _around(given, column[best], column, 0.5 ** (after + 1))
            for given, column in zip(space.values(), places.T, strict=True)
        ]
        low, high = np.array(ends).T
    found = _between(space, low, high, tried, number)
    known = [*tried, *found]
    missing = number - len(found)
    return found + _between(space, *_corners(space), known, missing) if missing else found


def _usual(entrant: Entrant) -> dict[str, Any]:
    """The rule's defaults, and the middle of the range where there are none."""
    return {k: entrant.defaults.get(k, spaces.value_at(v, 0.5)) for k, v in entrant.space.items()}


def _size(entrant: Entrant) -> float:
    """The number of settings that a rule can have, the usual one among them."""
    places = _places(entrant.space, [_usual(entrant)])
    inside = not entrant.space or bool(((places >= 0) & (places <= 1)).all())
    return math.prod(spaces.size(given) for given in entrant.space.values()) + (not inside)


def losses_of(runs: Sequence[Run]) -> Float[np.ndarray, "tried seeds"]:
    """The losses of a stage's runs: a row for each setting, a column for each tuning seed."""
    return np.array([run.loss for run in runs], dtype=float).reshape(-1, len(TUNING_SEEDS))


def ranking(losses: Float[np.ndarray, "tried seeds"]) -> Int[np.ndarray, " tried"]:
    """The places of settings from the lowest to the highest median loss; ties stay in order."""
    return np.argsort(np.median(losses, axis=1), kind="stable")


def _corners(
    space: spaces.Space,
) -> tuple[Float[np.ndarray, " names"], Float[np.ndarray, " names"]]:
    """The places of the lowest and of the highest values of a space."""
    return np.zeros(len(space)), np.ones(len(space))


def _around(
    given: Any, best: float, tried: Float[np.ndarray, " tried"], reach: float
) -> tuple[float, float]:
    """The part of a range in which one looks next, as places."""
    if isinstance(given, spaces.OneOf) or math.isnan(best):
        return 0.0, 1.0
    scale = spaces.range_of(given)
    if not isinstance(scale, spaces.Log):
        return max(0.0, best - reach), min(1.0, best + reach)
    decade = 1 / math.log10(scale.high / scale.low)
    lowest, highest = np.nanmin(tried), np.nanmax(tried)
    if best == highest > lowest:
        return best, best + decade
    if best == lowest < highest:
        return best - decade, best
    return best - reach, best + reach


def _between(
    space: spaces.Space,
    low: Float[np.ndarray, " names"],
    high: Float[np.ndarray, " names"],
    known: Sequence[dict[str, Any]],
    number: int,
) -> list[dict[str, Any]]:
    """So many settings between two corners, unlike those that are known and far from them."""
    found: list[dict[str, Any]] = []
    for points in (*range(max(1, number), number + _MORE), _MANY):
        found = []
        for row in low + _hammersley(points, len(space)) * (high - low):
            places = zip(space.items(), row, strict=True)
            setting = {name: spaces.value_at(given, place) for (name, given), place in places}
            if _distance(space, setting, [*known, *found]) > _ALIKE:
                found.append(setting)
        if len(found) >= number:
            break
    far = [-round(_distance(space, setting, known), 6) for setting in found]
    return [found[i] for i in np.argsort(far, kind="stable")[:number]]


def _hammersley(number: int, dimensions: int) -> Float[np.ndarray, "number dimensions"]:
    """Points that fill the unit cube evenly, those nearest to its center first."""
    first = (np.arange(number) + 0.5) / number
    others = [qmc.Halton(dimensions - 1, scramble=False).random(number + 1)[1:]] * (dimensions > 1)
    points = np.column_stack([first, *others])
    return points[np.argsort(np.abs(points - 0.5).max(axis=1), kind="stable")]


def _distance(space: spaces.Space, one: dict[str, Any], many: Sequence[dict[str, Any]]) -> float:
    """How far a setting is from the nearest of many, as a share of a range, at most 1."""
    apart = np.abs(_places(space, [one]) - _places(space, many))
    apart = np.where(np.isnan(apart), 1.0, apart)  # what has no place is like nothing
    return float(np.min(np.max(apart, axis=1), initial=1.0))


def _places(
    space: spaces.Space, many: Sequence[dict[str, Any]]
) -> Float[np.ndarray, "settings names"]:
    """Where settings lie in a space."""
    rows = [[spaces.place_of(given, one[name]) for name, given in space.items()] for one in many]
    return np.array(rows, dtype=float).reshape(len(many), len(space))
