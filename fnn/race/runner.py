"""The runner: from rules and terms to the records of a race.

Every rule goes through four stages: it is planned (its first settings, and how many steps the
budget buys), tuned by a search, raced from fresh seeds at the setting that was chosen, and timed
alone. A stage asks the store for its records first and does what is missing, so that a race goes on
where it was stopped. All programs are compiled before the first second is measured, save those of
static values that a later round of the search comes by.
"""

import concurrent.futures
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fnn import problems
from fnn.problems import Budget, Problem
from fnn.race import lanes, remote, search, spaces, store, variants
from fnn.race.compiling import Setting
from fnn.race.entrants import CLASSIC, Entrant, entrant
from fnn.race.failures import RuleFailedError, blaming_the_rule
from fnn.race.meter import gradient_flops
from fnn.race.protocol import (
    TUNING_SEED,
    TUNING_SEEDS,
    Protocol,
    require_possible,
    round_ends,
)
from fnn.race.records import Choice, LeftOut, Plan, Run, Seconds
from fnn.race.result import Race
from fnn.training import Stop

_ALONE = 3
"""Runs alone of the chosen setting: the fewest whose median one disturbed reading does not move."""
_WARM = 0.05
"""The fewest seconds that a measurement of steps lasts, so that the call itself does not count."""
_PROBE = 8
"""Steps whose flops tell what one costs: the mean of a few, because line searches and trials vary
from step to step."""
_ROUNDING = 1e-6
"""Of a product of a share and a number of steps, the whole part of which is taken."""
_LANES = 4
"""Lanes of a program on a CPU, where each takes its own time: 4, 6 and 12 lanes of a run on digits
take the same each, and one that only fills up the last turn is lost. Rounds are multiples of 4."""
_COMPILERS = 4
"""Programs that are compiled beside each other: XLA takes several threads for each already."""

Watch = Callable[[str, float], None]


def run(
    problem: Problem | str,
    rules: Sequence[Entrant | str] = CLASSIC,
    *,
    seeds: int = 5,
    trials: int = 5,
    budget: Budget | None = None,
    folder: str | Path | None = None,
    cluster: str | None = None,
    watch: Watch = lambda *_: None,
) -> Race:
    """Races rules on a problem by equal terms, and writes everything down.

    Args:
        problem: the problem, or its name.
        rules: entrants or their names. A rule that cannot take part in the problem, or raises at
            any time, is left out: the race says why, and goes on with the others.
        seeds: the number of fresh starting points of the chosen setting, the same for every rule.
        trials: what the tuning of each rule may spend, in whole runs, see `search`; with 0 there
            is no tuning, and each rule has its defaults.
        budget: what a run may spend; the problem's by default. In steps or examples a race is the
            same whenever it is run; seconds, flops and gradients become steps by measuring: at the
            first setting for all trials, at the setting that was chosen for the seeds.
        folder: where the race is written down, and goes on if it was stopped there; a new folder
            `races/PROBLEM/TIME` by default.
        cluster: the address of a Ray cluster, or "local" for the cores of this machine: lanes and
            measurements become its tasks, see `remote`. With None everything runs here in turn,
            without Ray. The results are the same.
        watch: is called with what is going on and the share of the race that is done.

    Returns:
        The results, as `store.read(folder)` would.

    Raises:
        ValueError: for numbers out of range, unknown names, a space that has no values, a folder
            with another race, or a cluster without Ray.
        RuntimeError: if every rule was left out. (Also for a cluster of other machines, or one that
            loses a task again and again; and OSError if another race is writing to the folder, or
            the disk is full.)

    Example:
        >>> import tempfile
        >>> from fnn import race
        >>> from fnn.problems import Budget
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     raced = race.run(
        ...         "xor", ["sgd"], seeds=2, trials=1, budget=Budget(20, "steps"), folder=folder
        ...     )
        >>> raced.results[0].validation.shape
        (2, 20)
    """
    problem = problems.get(problem) if isinstance(problem, str) else problem
    entrants = [entrant(rule) if isinstance(rule, str) else rule for rule in rules]
    names = [one.name for one in entrants]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"race: expected rules with names of their own, got {names}")
    for one in entrants:
        spaces.require_space(one.name, one.space, one.defaults)
    protocol = require_possible(Protocol(trials, seeds, budget or problem.budget))
    folder = store.new_folder("races", problem.name) if folder is None else Path(folder)
    with store.opened(folder, problem, protocol) as opened:
        terms = opened, problem, protocol, entrants, watch
        if cluster is None:
            compile_rule = functools.partial(lanes.programs, problem)
            _run(*terms, compile_rule, min(_COMPILERS, os.cpu_count() or 1))
        else:
            with remote.connected(cluster) as connected:
                compile_rule = functools.partial(connected.programs, problem, opened.header)
                _run(*terms, compile_rule, len(entrants), connected)
        race = store.results(opened)
    if not race.results:
        raise RuntimeError(
            f"race: expected a rule that comes to its end, got none in {folder}; "
            + " ".join(race.caveats)
        )
    watch("done", 1.0)
    return race


class Entry(NamedTuple):
    """What one rule's part in a race needs: where its records are, its terms and its programs."""

    store: store.Store
    problem: Problem
    protocol: Protocol
    entrant: Entrant
    programs: lanes.Programs


def _run(
    opened: store.Store,
    problem: Problem,
    protocol: Protocol,
    entrants: Sequence[Entrant],
    watch: Watch,
    compile_rule: variants.Compile,
    compilers: int,
    cluster: remote.Cluster | None = None,
) -> None:
    """Does everything that is to be done, in order; in a cluster the rules beside each other."""
    count = itertools.count()

    def announce(what: str) -> None:
        watch(what, next(count) / (1 + len(_STAGES) * len(entrants)))

    def go_through(entry: Entry, stages: Iterable[str]) -> None:
        try:
            for stage in stages:
                announce(f"{stage} {entry.entrant.name}")
                _STAGES[stage](entry)
        except RuleFailedError as error:
            opened.append(LeftOut(entry.entrant.name, f"{error}"))

    announce("compiling")
    entries = _entries(opened, problem, protocol, entrants, compile_rule, compilers)
    if cluster is None:
        for entry in entries:
            go_through(entry, _STAGES)
    else:
        first, *others = _STAGES
        for entry in entries:  # the report has the rules in the order of their first lines
            go_through(entry, [first])
        racing = [entry for entry in entries if not _is_done(opened, entry.entrant)]
        cluster.together([functools.partial(go_through, entry, others) for entry in racing])


def _entries(
    opened: store.Store,
    problem: Problem,
    protocol: Protocol,
    entrants: Sequence[Entrant],
    compile_rule: variants.Compile,
    compilers: int,
) -> list[Entry]:
    """The rules that are not done yet, compiled; those that cannot take part are left out."""

    def compiled(one: Entrant) -> Entry | LeftOut:
        try:
            with blaming_the_rule():
                missing, first = one.misses(problem), search.settings(one, protocol.trials)
            if missing:
                return LeftOut(one.name, f"it needs {missing}.")
            programs = variants.programs(compile_rule, one, first, _lanes_of(protocol))
        except RuleFailedError as error:
            return LeftOut(one.name, f"{error}")
        return Entry(opened, problem, protocol, one, programs)

    waiting = [one for one in entrants if not _is_done(opened, one)]
    entries = []
    with concurrent.futures.ThreadPoolExecutor(compilers) as pool:
        for entry in pool.map(compiled, waiting):
            if isinstance(entry, LeftOut):
                opened.append(entry)
            else:
                entries.append(entry)
    return entries


def _lanes_of(protocol: Protocol) -> int:
    """The lanes of a program: turns of equal size on a CPU, and all of them at once elsewhere."""
    if jax.default_backend() != "cpu":
        return max(protocol.seeds, 2 * _LANES)
    return math.ceil(protocol.seeds / math.ceil(protocol.seeds / _LANES))


def _is_done(opened: store.Store, one: Entrant) -> bool:
    """Whether a rule has its last record."""
    return bool(opened.of(Seconds, one.name) or opened.of(LeftOut, one.name))


# The stages of a rule -----------------------------------------------------------------------------


def _plan(entry: Entry) -> Plan:
    """The plan of a rule, from the store or made now."""
    name = entry.entrant.name
    plans = entry.store.of(Plan, name)
    if not plans:
        first = search.settings(entry.entrant, entry.protocol.trials)
        steps, batch = affordable_steps(entry, first[0]), entry.entrant.examples(entry.problem)
        unit = gradient_flops(entry.problem) or 1.0
        plans = [Plan(name, first, steps, batch, unit)]
        entry.store.append(*plans)
    return plans[0]


def _tune(entry: Entry) -> None:
    """Searches for the setting of a rule that has several."""
    plan = _plan(entry)
    rungs = search.rungs(entry.entrant, entry.protocol.trials)
    if rungs is None:
        return
    tried, losses = list(plan.settings), np.empty((0, len(TUNING_SEEDS)))
    for i, number in enumerate(rungs.rounds):
        if i:
            tried += search.closer(entry.entrant.space, tried, losses, number, i)
        new = {trial: tried[trial] for trial in range(len(losses), len(tried))}
        runs = _run_lanes(entry, f"round-{i + 1}", new, TUNING_SEEDS, rungs.short * plan.steps)
        losses = np.concatenate([losses, search.losses_of(runs)])
    best = {int(trial): tried[trial] for trial in search.ranking(losses)[: rungs.finalists]}
    _run_lanes(entry, "final", best, TUNING_SEEDS, rungs.long * plan.steps)


def _choice(entry: Entry) -> Choice:
    """The setting for the fresh seeds and its steps, from the store or chosen now."""
    name = entry.entrant.name
    choices = entry.store.of(Choice, name)
    if not choices:
        plan, finals = _plan(entry), entry.store.runs(name, "final")
        trials = list(dict.fromkeys(run.trial for run in finals))
        best = trials[search.ranking(search.losses_of(finals))[0]] if trials else 0
        # The plan's steps are those of the first setting.
        setting = entry.store.settings(name)[best]
        steps = affordable_steps(entry, setting) if best else plan.steps
        choices = [Choice(name, best, steps)]
        entry.store.append(*choices)
    return choices[0]


def _race(entry: Entry) -> None:
    """Runs the chosen setting from fresh seeds."""
    choice = _choice(entry)
    chosen = {choice.trial: entry.store.settings(entry.entrant.name)[choice.trial]}
    _run_lanes(entry, "seed", chosen, range(entry.protocol.seeds), choice.steps)


def _time(entry: Entry) -> None:
    """Measures the seconds of the chosen setting alone."""
    choice, seeds = _choice(entry), range(min(entry.protocol.seeds, _ALONE))
    setting = entry.store.settings(entry.entrant.name)[choice.trial]
    measured = entry.programs.alone(variants.lasting(setting, choice.steps), seeds, choice.steps)
    entry.store.append(Seconds(entry.entrant.name, *measured))


_STAGES: dict[str, Callable[[Entry], object]] = {
    "planning": _plan, "tuning": _tune, "racing": _race, "timing": _time,
}  # fmt: skip


def _run_lanes(
    entry: Entry, stage: str, settings: Mapping[int, Setting], seeds: Sequence[int], steps: float
) -> list[Run]:
    """Runs each setting from each seed, and writes each run down that is not there yet."""
    name, plan = entry.entrant.name, _plan(entry)
    written = entry.store.runs(name, stage)
    lanes = [(trial, seed) for trial in settings for seed in seeds]
    if len(written) == len(lanes):
        return written
    steps = max(1, int(steps + _ROUNDING))
    tried = [variants.lasting(settings[trial], steps) for trial, _ in lanes]
    seen = entry.programs.run(tried, [seed for _, seed in lanes], round_ends(steps), False)
    runs = [
        Run(
            rule=name,
            stage=stage,
            trial=lanes[i][0],
            seed=lanes[i][1],
            setting=dict(settings[lanes[i][0]]),
            batch=plan.batch,
            steps=int(seen.steps[i, -1]),
            train=float(seen.train[i, -1]),
            validation=float(seen.validation[i, -1]),
            test=float(seen.test[i]),
            stopped=Stop(int(seen.stopped[i])).name.lower(),
            curves=f"{name}-{stage}.npz",
        )
        for i in range(len(written), len(lanes))
    ]
    curves = "steps", "train", "validation", "flops", "model"
    entry.store.append_runs(runs, {curve: getattr(seen, curve) for curve in curves})
    return written + runs


# What the budget buys -----------------------------------------------------------------------------


def affordable_steps(entry: Entry, setting: Setting) -> int:
    """How many steps the budget buys of a setting, one at least."""
    amount, unit = entry.protocol.budget
    if unit == "steps":
        price = 1.0
    elif unit == "examples":
        price = float(entry.entrant.examples(entry.problem))
    elif unit == "seconds":
        # Line searches and trials cost what they cost along the whole way: a whole run tells.
        steps = max(1, round(amount / _seconds_a_step(entry.programs, setting)))
        price = entry.programs.alone(setting, [TUNING_SEED], steps).seconds[0] / steps
    else:
        ends = np.array([_PROBE], np.int32)
        seen = entry.programs.run([setting], [TUNING_SEED], ends, False)
        spent = {"flops": seen.flops, "gradients": seen.model}[unit][0, -1] / _PROBE
        price = spent / (1.0 if unit == "flops" else gradient_flops(entry.problem))
    return max(1, round(amount / max(price, 1e-30)))


def _seconds_a_step(programs: lanes.Programs, setting: Setting) -> float:
    """The seconds of a step, from the first run that is long enough to be measured."""
    steps = 4
    while (seconds := programs.alone(setting, [TUNING_SEED], steps).seconds[0]) < _WARM:
        steps *= 4
    return seconds / steps
