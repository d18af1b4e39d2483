"""The runner: from rules and terms to the records of a race.

Every rule goes through four stages: it is planned (its first settings, and a budget that is
counted), tuned by a search, raced from fresh seeds at the setting that was chosen, and timed alone.
A stage asks the store for its records first and does what is missing, so that a race goes on where
it was stopped. All programs are compiled before the first second is measured, save those of static
values that a later round of a search comes by. All rules are planned before one is tuned, so that a
budget that is too small is found at once.
"""

import concurrent.futures
import functools
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fnn import problems
from fnn.problems import Budget, Problem
from fnn.race import identity, lanes, pricing, remote, report, search, spaces, store, variants
from fnn.race.compiling import Setting
from fnn.race.entering import Rule, entering
from fnn.race.entrants import CLASSIC, Entrant
from fnn.race.failures import RuleFailedError, blaming_the_rule
from fnn.race.meter import gradient_flops
from fnn.race.protocol import TUNING_SEED, TUNING_SEEDS, Protocol, require_possible
from fnn.race.records import Choice, Entered, LeftOut, Plan, Run, Seconds, Withheld
from fnn.race.result import Race
from fnn.training import Stop

_ALONE = 3
"""Runs alone of the chosen setting: the fewest whose median one disturbed reading does not move."""
_ATTEMPTS = 3
"""Times that a rule races whose seconds are not those of its budget: the second corrects the price,
and the third is for a machine that was busy in one of the two."""
_LANES = 4
"""Lanes of a program on a CPU, where each takes its own time: 4, 6 and 12 lanes of a run on digits
take the same each, and one that only fills up the last turn is lost. Rounds are multiples of 4."""
_COMPILERS = 4
"""Programs that are compiled beside each other: XLA takes several threads for each already."""

Watch = Callable[[str, float], None]
Identify = Callable[[Problem, Entrant, Setting], dict[str, str]]


def run(
    problem: Problem | str,
    rules: Sequence[Rule] | Mapping[str, Rule] = CLASSIC,
    *,
    seeds: int = 12,
    trials: int = 5,
    budget: Budget | None = None,
    folder: str | Path | None = None,
    cluster: str | None = None,
    watch: Watch = lambda *_: None,
) -> Race:
    """Races rules on a problem by equal terms, and writes everything down, a page to look at too.

    Args:
        problem: the problem, or its name.
        rules: names, entrants, and transformations of optax, as `entering` says; under names of
            yours in a mapping. A rule that cannot take part in the problem, or raises at any time,
            is left out: the race says why, and goes on with the others.
        seeds: the number of fresh starting points of the chosen setting, the same for every rule;
            with fewer than 12 there is no verdict.
        trials: what the search for each rule's setting may spend, in whole runs, see `search`;
            with 0 there is no search, and each rule has its defaults.
        budget: what a run may spend; the problem's by default. In steps, examples, flops or
            gradients it is counted while a run goes on, and a race is the same to the last bit
            whenever it is run, its seconds aside. In seconds it becomes steps by measuring: at the
            first setting for the search, at the setting that was chosen for the seeds.
        folder: where the race is written down, and goes on if it was stopped there; a new folder
            `races/PROBLEM/TIME` by default. Its page is `report.html`.
        cluster: the address of a Ray cluster, or "local" for the cores of this machine: lanes and
            measurements become its tasks, see `remote`. With None everything runs here in turn,
            without Ray. The results are the same.
        watch: is called with what is going on and the share of the race that is done.

    Returns:
        The results, as `store.read(folder)` would.

    Raises:
        RuntimeError: if every rule was left out. (Also for a cluster of other machines, or one that
            loses a task again and again; ValueError for numbers out of range, unknown names, a
            space without values, a budget without its unit or one that buys ten steps of no rule, a
            folder with another race, or a cluster without Ray; and OSError if another race is
            writing to the folder, or the disk is full.)

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
    entrants = entering(rules)
    for entrant in entrants:
        spaces.require_space(entrant.name, entrant.space, entrant.defaults)
    protocol = require_possible(
        Protocol(trials, seeds, problem.budget if budget is None else budget)
    )
    folder = store.new_folder("races", problem.name) if folder is None else Path(folder)
    with store.opened(folder, problem, protocol) as opened:
        terms = opened, problem, protocol, entrants, watch
        if cluster is None:
            compile_rule = functools.partial(lanes.programs, problem)
            compilers = min(_COMPILERS, os.cpu_count() or 1)
            _run(*terms, identity.of_entrant, compile_rule, compilers)
        else:
            with remote.connected(cluster) as connected:
                compile_rule = functools.partial(connected.programs, problem, opened.header)
                _run(*terms, connected.identity, compile_rule, len(entrants), connected)
        race = store.results(opened)
    if not race.results:
        raise RuntimeError(
            f"race: expected a rule that comes to its end, got none in {folder}; "
            + " ".join(race.caveats)
        )
    _write_page(race, folder)
    watch("done", 1.0)
    return race


def _write_page(race: Race, folder: Path) -> None:
    """Writes the page of a race, which is not lost if its picture fails."""
    try:
        report.write(race, folder)
    except Exception as error:  # of whatever kind: the race itself is written down
        warnings.warn(
            f"race: the page in {folder} was not written ({type(error).__name__}: {error}); the "
            f"race is there, and `fnn report {folder}` tries again",
            stacklevel=3,
        )


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
    identify: Identify,
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
    for entrant in entrants:
        opened.require_same(Entered(entrant.name, _identity(problem, entrant, protocol, identify)))
    entries = _entries(opened, problem, protocol, entrants, compile_rule, compilers)
    first, *others = _STAGES
    for entry in entries:
        go_through(entry, [first])
    racing = [entry for entry in entries if not _is_done(opened, entry.entrant)]
    if racing:  # all plans are asked: what a race was begun with, it may also end with
        plans = [plan for one in entrants for plan in opened.of(Plan, one.name)]
        pricing.require_ten_steps(protocol.budget, plans)
    works = [functools.partial(go_through, entry, others) for entry in racing]
    if cluster is None:
        for work in works:
            work()
    else:
        cluster.together(works)


def _entries(
    opened: store.Store,
    problem: Problem,
    protocol: Protocol,
    entrants: Sequence[Entrant],
    compile_rule: variants.Compile,
    compilers: int,
) -> list[Entry]:
    """The rules that are not done yet, compiled; those that cannot take part are left out."""

    def compiled(entrant: Entrant) -> Entry | LeftOut:
        try:
            with blaming_the_rule():
                missing = entrant.misses(problem._replace(budget=protocol.budget))
                first = search.settings(entrant, protocol.trials)
            if missing:
                return LeftOut(entrant.name, f"it needs {missing}.")
            programs = variants.programs(compile_rule, entrant, first, _lanes_of(protocol))
        except RuleFailedError as error:
            return LeftOut(entrant.name, f"{error}")
        return Entry(opened, problem, protocol, entrant, programs)

    waiting = [entrant for entrant in entrants if not _is_done(opened, entrant)]
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


def _identity(
    problem: Problem, entrant: Entrant, protocol: Protocol, identify: Identify
) -> dict[str, str]:
    """What a rule is entered with; nothing of one whose own code fails, which is left out."""
    try:
        with blaming_the_rule():
            first = search.settings(entrant, protocol.trials)[0]
            return identify(problem, *variants.at(entrant, first))
    except RuleFailedError:
        return {}


def _is_done(opened: store.Store, entrant: Entrant) -> bool:
    """Whether a rule has its last record."""
    return bool(opened.of(Seconds, entrant.name) or opened.of(LeftOut, entrant.name))


# The stages of a rule -----------------------------------------------------------------------------


def _plan(entry: Entry) -> Plan:
    """The plan of a rule, from the store or made now."""
    name = entry.entrant.name
    plans = entry.store.of(Plan, name)
    if not plans:
        entrant, problem, programs = entry.entrant, entry.problem, entry.programs
        trials = entry.protocol.trials
        usual, *_ = search.settings(entrant, trials)
        budget = pricing.counted_budget(entry.protocol.budget, programs.alone, usual, [TUNING_SEED])
        price = pricing.price_of_a_step(problem, entrant, programs.run, usual, budget)
        first = search.settings(entrant, trials, pricing.expected_steps(budget, price))
        unit = gradient_flops(problem) or 1.0
        plans = [Plan(name, first, entrant.examples(problem), unit, list(budget), price)]
        entry.store.append(*plans)
    return plans[0]


def _tune(entry: Entry) -> None:
    """Searches for the setting of a rule that has several."""
    plan = _plan(entry)
    steps = pricing.expected_steps(Budget(*plan.budget), plan.price)
    rungs = search.rungs(entry.entrant, entry.protocol.trials, steps)
    if rungs is None:
        return
    short, long = (_part(plan, share) for share in (rungs.short, rungs.long))
    tried, losses = list(plan.settings), np.empty((0, len(TUNING_SEEDS)))
    for i, number in enumerate(rungs.rounds):
        if i:
            tried += search.closer(entry.entrant.space, tried, losses, number, i)
        new = {trial: tried[trial] for trial in range(len(losses), len(tried))}
        runs = _run_lanes(entry, f"round-{i + 1}", new, TUNING_SEEDS, *short)
        losses = np.concatenate([losses, search.losses_of(runs)])
    best = {int(trial): tried[trial] for trial in search.ranking(losses)[: rungs.finalists]}
    _run_lanes(entry, "final", best, TUNING_SEEDS, *long)


def _part(plan: Plan, share: float) -> tuple[Budget, int]:
    """A share of a whole run, to the step that is nearest to it, and about its steps."""
    amount, unit = plan.budget
    budget = Budget(max(share * amount - plan.price / 2, plan.price / 2), unit)
    return budget, pricing.expected_steps(budget, plan.price)


def _choice(entry: Entry) -> Choice:
    """The setting for the fresh seeds and its budget, from the store or chosen now."""
    name = entry.entrant.name
    choices = entry.store.of(Choice, name)
    if not choices:
        runs = entry.store.runs(name, "final") or entry.store.of(Run, name)
        trials = list(dict.fromkeys(run.trial for run in runs))
        best = trials[search.ranking(search.losses_of(runs))[0]] if trials else 0
        budget = pricing.counted_budget(
            entry.protocol.budget,
            entry.programs.alone,
            entry.store.settings(name)[best],
            _timed_seeds(entry),
        )
        choices = [Choice(name, best, list(budget), _plan(entry).price)]
        entry.store.append(*choices)
    return choices[-1]


def _race(entry: Entry) -> None:
    """Runs the chosen setting from fresh seeds."""
    choice = _choice(entry)
    chosen = {choice.trial: entry.store.settings(entry.entrant.name)[choice.trial]}
    steps = pricing.expected_steps(Budget(*choice.budget), choice.price)
    _run_lanes(entry, "seed", chosen, range(entry.protocol.seeds), Budget(*choice.budget), steps)


def _time(entry: Entry) -> None:
    """Measures the seconds of the chosen setting alone, and races again if they are not right."""
    name, asked = entry.entrant.name, entry.protocol.budget
    while True:
        _race(entry)
        choice, runs = _choice(entry), entry.store.runs(name, "seed")
        seeds = _timed_seeds(entry)
        reading = pricing.settled(
            entry.programs.alone, runs[0].setting, seeds, [runs[seed].steps for seed in seeds]
        )
        other = pricing.corrected(asked, choice, reading.seconds, runs)
        if other is None or len(entry.store.of(Choice, name)) == _ATTEMPTS:
            break
        entry.store.append(other)
    why = pricing.objection(asked, reading, runs)
    withheld = [] if why is None else [Withheld(name, why)]
    entry.store.append(*withheld, Seconds(name, *reading))


def _timed_seeds(entry: Entry) -> list[int]:
    """The seeds whose runs are measured alone."""
    return list(range(min(entry.protocol.seeds, _ALONE)))


_STAGES: dict[str, Callable[[Entry], object]] = {
    "planning": _plan, "tuning": _tune, "racing": _race, "timing": _time,
}  # fmt: skip


def _run_lanes(
    entry: Entry,
    stage: str,
    settings: Mapping[int, Setting],
    seeds: Sequence[int],
    budget: Budget,
    steps: int,
) -> list[Run]:
    """Runs each setting from each seed, in about so many steps, and writes down what is new."""
    name, plan = entry.entrant.name, _plan(entry)
    written = entry.store.runs(name, stage)
    pairs = [(trial, seed) for trial in settings for seed in seeds]
    if len(written) == len(pairs):
        return written
    tried = [variants.lasting(settings[trial], steps) for trial, _ in pairs]
    seen = entry.programs.run(tried, [seed for _, seed in pairs], budget)
    runs = [
        Run(
            rule=name,
            stage=stage,
            trial=trial,
            seed=seed,
            setting=dict(settings[trial]),
            batch=plan.batch,
            steps=int(seen.steps[i, -1]),
            train=float(seen.train[i, -1]),
            validation=float(seen.validation[i, -1]),
            test=float(seen.test[i]),
            stopped=Stop(int(seen.stopped[i])).name.lower(),
            curves=f"{name}-{stage}.npz",
            flops=float(seen.flops[i, -1]),
        )
        for i, (trial, seed) in list(enumerate(pairs))[len(written) :]
    ]
    curves = "steps", "train", "validation", "flops", "model"
    entry.store.append_runs(runs, {curve: getattr(seen, curve) for curve in curves})
    return written + runs
