"""The suite: our rules and the best of `optax.contrib` on eight problems, in one picture.

    uv run --group bench benchmarks/suite.py FOLDER [SEEDS TRIALS]

Every rule is tuned and raced by the terms of `fnn race` on each problem of `problems.SUITES`,
12 seeds and 5 trials unless others are given, one problem after another, each in a folder of its
own within FOLDER: killed and started again, it goes on. What comes of it lies in results/:
suite-cpu.json, a table by gradients and one by seconds, and suite-profile.png.

Newton's method is not among them: with these budgets it would not come to ten steps. Muon
orthogonalizes matrices and leaves all else, kernels of convolutions too, to Adam at the same rate.
Prodigy finds its rate itself, and what is tuned is a factor of it, 1 by default. Schedule-free
AdamW is judged by its average, as its authors ask for, and takes its gradients where it wants them,
see `fnn.race.entering`.
"""

import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import optax

from fnn import problems, race
from fnn.race import Entrant, report

RESULTS = Path(__file__).parent / "results"
SUITE, SEEDS, TRIALS = "small", 12, 5
COSTS = "gradients", "flops", "seconds"


# The rules ----------------------------------------------------------------------------------------


def little_memory(problem):
    """K-FAC takes some 700 rows of an example through the attention: 5 GB for each lane."""
    return "more than 24 GB of memory" if problem.name == "char-transformer" else None


KFAC = race.entrant("kfac")
ENTRANTS = [
    *map(race.entrant, ("momentum", "adam", "lbfgs", "levenberg_marquardt")),
    KFAC._replace(needs=(*KFAC.needs, little_memory)),
    Entrant(
        "muon",
        lambda _, learning_rate: optax.contrib.muon(learning_rate),
        {"learning_rate": (1e-3, 1e-1)},
        {"learning_rate": 2e-2},
    ),
    Entrant(
        "prodigy",
        lambda _, learning_rate: optax.contrib.prodigy(learning_rate),
        {"learning_rate": (1e-1, 1e1)},
        {"learning_rate": 1.0},
    ),
    *(
        one._replace(space={"learning_rate": (1e-3, 1e-1)})
        for one in race.entering({"schedule_free_adamw": "optax.contrib.schedule_free_adamw"})
    ),
]


# The races ----------------------------------------------------------------------------------------


def run(folder, seeds, trials):
    """The race of each problem, and the seconds that all of them took, over all attempts."""
    clock, races = folder / "seconds.json", []
    folder.mkdir(parents=True, exist_ok=True)
    spent = json.loads(clock.read_text()) if clock.exists() else {}
    for name in problems.SUITES[SUITE]:
        began = time.perf_counter()

        def watch(what, share, name=name):
            print(f"{name}: {100 * share:3.0f} % {what}", flush=True)

        terms = {"seeds": seeds, "trials": trials, "folder": folder / name, "watch": watch}
        races.append(race.run(name, ENTRANTS, **terms))
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        clock.write_text(json.dumps(spent))
    return races, spent


def numbers(raced):
    """What is kept of a race: medians over seeds, null for a median that missed the target."""
    target = raced.header["target"]
    rows = {}
    for result in raced.results:
        to_target = {cost: float(np.median(result.to_target(target, cost))) for cost in COSTS}
        rows[result.rule] = {
            "setting": result.setting,
            "validation_loss": finite(np.median(result.validation[:, -1])),
            "train_loss": finite(np.median(result.train[:, -1])),
            "test": finite(np.median(result.test)),
            "reached": int(np.isfinite(result.to_target(target, "steps")).sum()),
            "to_target": {cost: finite(spent) for cost, spent in to_target.items()},
            "seconds_of_a_run": float(np.median(result.run_seconds)),
            "compile_seconds": result.compile_seconds,
        }
    keys = "summary", "target", "measure", "protocol"
    return {key: raced.header[key] for key in keys} | {"rules": rows, "caveats": raced.caveats}


def finite(value):
    """The number, or None in place of one that JSON has not."""
    return float(value) if np.isfinite(value) else None


def main(folder, seeds: int | str = SEEDS, trials: int | str = TRIALS):
    """Races, prints the tables, and writes them, the picture and the JSON."""
    load = os.getloadavg()[0]
    races, spent = run(Path(folder), int(seeds), int(trials))
    for path in report.suite.export(races, RESULTS):
        if path.suffix == ".md":
            print(path.read_text())
    packages = ("fnn", "jax", "jaxlib", "optax", "numpy", "scikit-learn")
    result = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": load,
        "versions": {name: metadata.version(name) for name in packages},
        "seconds": spent,
        "seconds_of_the_whole": sum(spent.values()),
        "scores": {
            cost: report.findings.over_problems(races, cost).scores for cost in report.suite.COSTS
        },
        "problems": {raced.header["problem"]: numbers(raced) for raced in races},
    }
    (RESULTS / "suite-cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{sum(spent.values()):.0f} seconds for all races")


if __name__ == "__main__":
    main(*sys.argv[1:])
