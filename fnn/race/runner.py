"""The runner: from rules and terms to a store with everything that the race found.

For each rule: a plan (its settings, and how many steps the budget buys), trials, the choice of a
setting, fresh seeds, and the seconds of a run alone. Whatever stands in the store already is not
done again, so that a race goes on where it was stopped. All programs are compiled before the first
second is measured.
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fnn import problems
from fnn.problems import Budget, Problem
from fnn.race import lanes, remote, store
from fnn.race.compiling import Setting
from fnn.race.entrants import CLASSIC, Entrant, entrant
from fnn.race.meter import gradient_flops
from fnn.race.protocol import TUNING_SEED, Protocol, require_possible, round_ends, settings
from fnn.race.result import Race
from fnn.training import Stop

_ALONE = 3  # runs of the chosen setting whose seconds are measured
_WARM = 0.05  # seconds of a measurement of steps, at least

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
        problem: what is trained, or its name.
        rules: who races, entrants or their names. One that the problem is not for is left out, and
            the race says why; so is one that cannot be compiled.
        seeds: fresh starting points of the setting that was chosen, the same for every rule.
        trials: settings tried of each rule; 0 for its defaults.
        budget: what a run may spend; the problem's by default. In steps or examples a race is the
            same whenever it is run; seconds, flops and gradients become steps by measuring: at the
            middle of the space for the trials, at the setting that was chosen for the seeds.
        folder: where the race is written down, or goes on if that is where it was stopped; a new
            folder `races/PROBLEM/TIME` by default.
        cluster: the address of a Ray cluster, or "local" for the cores of this machine: lanes and
            measurements become its tasks, see `remote`. None does one thing after the other, here
            and without Ray. The results are the same.
        watch: called with what is going on and the share of the race that is done.

    Returns:
        The results, as `store.read(folder)` would.

    Raises:
        ValueError: for numbers out of range, unknown names, a folder with another race, or a
            cluster without Ray. (And OSError if another race is writing to the folder, or the disk
            is full; RuntimeError for a cluster of other machines, or one that loses a task again
            and again.)

    Example:
        >>> import tempfile
        >>> from fnn import race
        >>> from fnn.problems import Budget
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = race.run(
        ...         "xor", ["sgd"], seeds=2, trials=1, budget=Budget(20, "steps"), folder=folder
        ...     )
        >>> found.results[0].validation.shape
        (2, 20)
    """
    problem = problems.get(problem) if isinstance(problem, str) else problem
    racing = [entrant(rule) if isinstance(rule, str) else rule for rule in rules]
    if not racing or len({one.name for one in racing}) < len(racing):
        raise ValueError(
            f"race: expected rules with names of their own, got {[one.name for one in racing]}"
        )
    protocol = require_possible(Protocol(trials, seeds, budget or problem.budget))
    folder = store.new_folder("races", problem.name) if folder is None else Path(folder)
    with store.opened(folder, problem, protocol) as opened:
        race = opened, problem, racing, protocol, watch
        if cluster is None:
            _run(*race, functools.partial(lanes.programs, problem), min(4, os.cpu_count() or 1))
        else:
            with remote.connected(cluster) as connected:
                make = functools.partial(connected.programs, problem, opened.header)
                _run(*race, make, len(racing), connected)
    watch("done", 1.0)
    return store.read(folder)


def _run(
    opened: store.Store,
    problem: Problem,
    racing: Sequence[Entrant],
    protocol: Protocol,
    watch: Watch,
    make: Callable[[Entrant, Setting, int], lanes.Programs],
    compilers: int,
    cluster: remote.Cluster | None = None,
) -> None:
    """Does everything that is to be done, in order; in a cluster the rules beside each other."""
    count = itertools.count()

    def step(what: str, work: Callable[[], None]) -> None:
        watch(what, next(count) / (1 + 4 * len(racing)))
        work()

    programs = {}
    step(
        "compiling",
        lambda: programs.update(_made(opened, problem, racing, protocol, make, compilers)),
    )
    paths = []
    for one in racing:
        if one.name in programs:
            terms = opened, problem, one, protocol, programs[one.name]
            paths.append([
                (f"{word} {one.name}", functools.partial(stage, *terms))
                for word, stage in _STAGES.items()
            ])
    if cluster is None:
        for what, work in itertools.chain(*paths):
            step(what, work)
    else:
        for path in paths:  # the report has the rules in the order of their first lines
            step(*path.pop(0))
        cluster.together([lambda path=path: [step(*each) for each in path] for path in paths])


def _made(
    opened: store.Store,
    problem: Problem,
    racing: Sequence[Entrant],
    protocol: Protocol,
    make: Callable[[Entrant, Setting, int], lanes.Programs],
    compilers: int,
) -> dict[str, lanes.Programs]:
    """The programs of the rules that are not done yet; who has none is left out."""
    made, programs = {}, {}

    def leave_out(one: Entrant, why: str) -> None:
        opened.append({"kind": "left_out", "rule": one.name, "why": why})

    todo = [one for one in racing if not _is_done(opened, one)]
    with concurrent.futures.ThreadPoolExecutor(compilers) as pool:
        for one in todo:
            missing = one.misses(problem)
            if missing:
                leave_out(one, f"it needs {missing}.")
            else:
                tried = settings(one, protocol.trials)
                most = max(protocol.seeds, len(tried))
                made[one.name] = pool.submit(make, one, tried[0], most)
        for one in todo:
            if one.name in made:
                try:
                    programs[one.name] = made[one.name].result()
                except (TypeError, ValueError, NotImplementedError) as error:
                    leave_out(one, f"{type(error).__name__}: {error}")
    return programs


def _is_done(opened: store.Store, one: Entrant) -> bool:
    return bool(opened.find(one.name, "seconds") or opened.find(one.name, "left_out"))


def _plan(
    opened: store.Store, problem: Problem, one: Entrant, protocol: Protocol, made: lanes.Programs
) -> None:
    if opened.find(one.name, "plan"):
        return
    tried = settings(one, protocol.trials)
    opened.append({
        "kind": "plan",
        "rule": one.name,
        "settings": tried,
        "steps": _steps_of(problem, one, protocol, made, tried[0]),
        "batch": one.examples(problem),
        "gradient_flops": gradient_flops(problem) or 1.0,
    })


def _choose(
    opened: store.Store, problem: Problem, one: Entrant, protocol: Protocol, made: lanes.Programs
) -> dict:
    """The setting for the fresh seeds, and how many of its steps the budget buys."""
    written = opened.find(one.name, "choice")
    if written:
        return written[0]
    (plan,) = opened.find(one.name, "plan")
    trial, steps = store.chosen(opened.find(one.name, "run", "trial")), plan["steps"]
    if trial:  # the plan is of the first
        steps = _steps_of(problem, one, protocol, made, plan["settings"][trial])
    choice = {"kind": "choice", "rule": one.name, "trial": trial, "steps": steps}
    opened.append(choice)
    return choice


def _steps_of(
    problem: Problem, one: Entrant, protocol: Protocol, made: lanes.Programs, setting: dict
) -> int:
    """How many steps the budget buys."""
    amount, unit = protocol.budget
    if unit == "steps":
        price = 1.0
    elif unit == "examples":
        price = float(one.examples(problem))
    elif unit == "seconds":
        # Line searches and trials cost what they cost along the whole way: a whole run tells.
        steps = max(1, round(amount / _seconds_a_step(made, setting)))
        price = made.alone(setting, [TUNING_SEED], steps).seconds[0] / steps
    else:
        seen = made.run([setting], [TUNING_SEED], _PROBE, False)
        spent = {"flops": seen.flops, "gradients": seen.model}[unit][0, -1] / _PROBE[-1]
        price = spent / (1.0 if unit == "flops" else gradient_flops(problem))
    return max(1, round(amount / max(price, 1e-30)))


_PROBE = np.array([8], np.int32)


def _seconds_a_step(made: lanes.Programs, setting: dict) -> float:
    steps = 4
    while (seconds := made.alone(setting, [TUNING_SEED], steps).seconds[0]) < _WARM:
        steps *= 4
    return seconds / steps


def _tune(
    opened: store.Store, problem: Problem, one: Entrant, protocol: Protocol, made: lanes.Programs
) -> None:
    del protocol
    (plan,) = opened.find(one.name, "plan")
    tried = plan["settings"]
    if len(tried) > 1:
        seeds = [TUNING_SEED] * len(tried)
        runs = "trial", range(len(tried)), seeds, plan["steps"]
        _group(opened, problem, one, *runs, made, hopeless=True)


def _race(
    opened: store.Store, problem: Problem, one: Entrant, protocol: Protocol, made: lanes.Programs
) -> None:
    choice, seeds = _choose(opened, problem, one, protocol, made), range(protocol.seeds)
    runs = "seed", [choice["trial"]] * len(seeds), seeds, choice["steps"]
    _group(opened, problem, one, *runs, made, hopeless=False)


def _group(
    opened: store.Store,
    problem: Problem,
    one: Entrant,
    stage: str,
    trials: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    made: lanes.Programs,
    *,
    hopeless: bool,
) -> None:
    """Runs lanes and writes each of them down that is not there yet."""
    written = len(opened.find(one.name, "run", stage))
    if written == len(trials):
        return
    (plan,) = opened.find(one.name, "plan")
    tried = [plan["settings"][trial] for trial in trials]
    seen = made.run(tried, list(seeds), round_ends(steps), hopeless)
    opened.append(
        *(
            {
                "kind": "run",
                "rule": one.name,
                "stage": stage,
                "trial": trial,
                "seed": seed,
                "setting": setting,
                "batch": plan["batch"],
                "steps": seen.steps[i, -1],
                "train": seen.train[i, -1],
                "validation": seen.validation[i, -1],
                "test": seen.test[i],
                "measure": problem.measure.name,
                "stopped": Stop(int(seen.stopped[i])),
                "curves": f"{one.name}-{stage}s.npz",
                **opened.header,
            }
            for i, (trial, seed, setting) in enumerate(zip(trials, seeds, tried, strict=True))
            if i >= written
        ),
        curves={
            name: getattr(seen, name) for name in ("steps", "train", "validation", "flops", "model")
        },
    )


def _time(
    opened: store.Store, problem: Problem, one: Entrant, protocol: Protocol, made: lanes.Programs
) -> None:
    del problem
    if opened.find(one.name, "seconds"):
        return
    (plan,), (choice,) = opened.find(one.name, "plan"), opened.find(one.name, "choice")
    setting = plan["settings"][choice["trial"]]
    took = made.alone(setting, range(min(protocol.seeds, _ALONE)), choice["steps"])
    opened.append({"kind": "seconds", "rule": one.name, **took._asdict()})


_STAGES = {"planning": _plan, "tuning": _tune, "racing": _race, "timing": _time}
