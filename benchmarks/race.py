"""The race: 64 lanes beside Python loops, and the question of MATLAB's table.

    uv run --group bench benchmarks/race.py lanes
    uv run --group bench benchmarks/race.py matlab FOLDER

`lanes` trains 8 seeds x 8 rates of Adam on scikit-learn's digits (64-32-10, batches of 32, 50
epochs, float32), once as the lanes of a race and twice as 64 runs of a jitted optax step in Python
loops, the rate being an argument so that it compiles once: as the loop is usually written, shuffled
and cut into batches on the device, and tuned, rows by NumPy and taken in the step. The lanes are
looked at 60 times each, on training and validation data; the loops once. By turns, medians, compile
time apart; the usual loop, of which a fourth of the runs is timed, is in every turn as well.

`matlab` asks how long a rule takes to the error goals of MATLAB's "Choose a multilayer neural
network training function", 30 random starts each, float64, every rule at its defaults. FOLDER holds
Proben1's cancer1.dt and diabetes1.dt.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnn import problems, race
from fnn.problems import Budget
from fnn.race import lanes
from fnn.race.entrants import ENTRANTS

RESULTS = Path(__file__).parent / "results" / "race-cpu.json"
EPOCHS, BATCH, SIDE, ROUNDS = 50, 32, 8, 3


# 64 lanes -----------------------------------------------------------------------------------------


def lanes_beside_loops():
    """Seconds of both ways by turns, and the validation losses that they come to."""
    problem = problems.get("digits")._replace(batch_size=BATCH)
    rates = np.geomspace(1e-3, 3e-2, SIDE)
    pairs = [(float(rate), seed) for rate in rates for seed in range(SIDE)]
    examples = len(problem.train[0])
    steps = EPOCHS * -(-examples // BATCH)
    raced = lanes.programs(problem, ENTRANTS["adam"], {"learning_rate": 1e-3}, len(pairs)).run
    data = jax.tree.map(jnp.asarray, problem.train)

    def in_lanes():
        settings = [{"learning_rate": rate} for rate, _ in pairs]
        seen = raced(settings, [seed for _, seed in pairs], Budget(steps, "steps"))
        return seen.validation[:, -1]

    @jax.jit
    def step(params, state, batch, rate):
        if not isinstance(batch, tuple):  # rows
            batch = jax.tree.map(lambda a: a[batch], data)
        _, grad = jax.value_and_grad(problem.objective.on(batch))(params)
        updates, state = optax.adam(rate).update(grad, state)
        return optax.apply_updates(params, updates), state

    validation = jax.jit(problem.objective.on(problem.validation))

    def loops(batches_of, pairs):
        found = []
        for rate, seed in pairs:
            params = problem.init(jax.random.key(seed))
            state = optax.adam(rate).init(params)
            for batch in batches_of(seed):
                params, state = step(params, state, batch, rate)
            found.append(float(validation(params)))
        return np.array(found)

    def usual_batches(seed):
        key = jax.random.key(seed)
        for _ in range(EPOCHS):
            key, own = jax.random.split(key)
            order = jnp.resize(jax.random.permutation(own, examples), steps // EPOCHS * BATCH)
            for i in range(0, len(order), BATCH):
                yield jax.tree.map(lambda a, rows=order[i : i + BATCH]: a[rows], data)

    def tuned_batches(seed):
        rng = np.random.default_rng(seed)
        for _ in range(EPOCHS):
            yield from np.resize(rng.permutation(examples), (steps // EPOCHS, BATCH))

    ways = {
        "lanes": (in_lanes, 1),
        "usual loops": (lambda: loops(usual_batches, pairs[::4]), 4),
        "tuned loops": (lambda: loops(tuned_batches, pairs), 1),
    }
    seconds, losses = {}, {}
    in_lanes()  # warm
    loops(usual_batches, pairs[:1])
    loops(tuned_batches, pairs[:1])
    for _ in range(ROUNDS):
        for name, (way, times) in ways.items():
            began = time.perf_counter()
            losses[name] = way()
            seconds.setdefault(name, []).append(times * (time.perf_counter() - began))
    print(f"64 runs of {steps} Adam steps, batches of {BATCH}: medians of {ROUNDS}")
    fast = {}
    for name, measured in seconds.items():
        turns = zip(measured, seconds["lanes"], strict=True)
        fast[name] = statistics.median(mine / lanes for mine, lanes in turns)
        print(
            f"  {name:12} {statistics.median(measured):7.2f} s, {fast[name]:5.1f} times the lanes, "
            f"median validation loss {np.median(losses[name]):.3f}"
        )
    return {"steps": steps, "seconds": seconds, "times_the_lanes": fast}


# MATLAB's table -----------------------------------------------------------------------------------

RACERS = [
    "levenberg_marquardt",
    "bfgs",
    "rprop",
    "lbfgs",
    "sr1",
    "trust_region_newton",
    "adam",
    "momentum",
]
FILES = {"matlab-cancer": "cancer1.dt", "matlab-diabetes": "diabetes1.dt"}
SECONDS = {"matlab-sin": 0.1, "matlab-parity": 0.2, "matlab-cancer": 1.0, "matlab-diabetes": 2.0}


def matlab(folder):
    """Seconds to the error goal, beside Levenberg-Marquardt's, and how many of 30 starts arrive."""
    jax.config.update("jax_enable_x64", True)
    tables = {}
    for name, seconds in SECONDS.items():
        problem = problems.get(name, folder / FILES[name] if name in FILES else None)
        with tempfile.TemporaryDirectory() as store:
            terms = {
                "seeds": 30,
                "trials": 0,
                "budget": Budget(seconds, "seconds"),
                "folder": store,
            }
            found = race.run(problem, RACERS, **terms)
        tables[name] = table(problem, found)
    return tables


def table(problem, found):
    """Prints the table of a problem."""
    rows = {}
    for result in found.results:
        arrived = result.to_target(problem.target, "seconds")
        came = np.isfinite(arrived)
        rows[result.rule] = {
            "arrived": int(came.sum()),
            "mean_seconds": float(arrived[came].mean()) if came.any() else None,
            "median_seconds": float(np.median(arrived)),  # a miss is infinity
            "median_steps": float(np.median(result.to_target(problem.target, "steps"))),
        }
    unit = rows["levenberg_marquardt"]["mean_seconds"]
    print(f"\n{problem.name}: {problem.summary}, to {problem.target:g}, 30 starts")
    print(f"  {'':22}{'arrived':>9}{'median ms':>11}{'mean ms':>10}{'to LM':>8}")
    for rule, row in sorted(rows.items(), key=lambda item: item[1]["median_seconds"]):
        mean = row["mean_seconds"]
        row["times_levenberg_marquardt"] = mean / unit if mean and unit else None
        numbers = 1e3 * row["median_seconds"], mean and 1e3 * mean, row["times_levenberg_marquardt"]
        cells = ["" if n is None else f"{n:.2f}" for n in numbers]
        widths = zip(cells, (11, 10, 8), strict=True)
        print(f"  {rule:22}{row['arrived']:6}/30" + "".join(f"{c:>{w}}" for c, w in widths))
    for said in found.caveats:
        print(f"  - {said}")
    return rows


def main(chosen, *folders):
    """Runs a part and writes it into the JSON."""
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    packages = ("fnn", "jax", "jaxlib", "optax", "numpy", "scikit-learn")
    report |= {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
        chosen: lanes_beside_loops() if chosen == "lanes" else matlab(Path(folders[0])),
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
