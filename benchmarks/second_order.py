"""Loss against seconds: first- and second-order rules, each tuned with the same budget of seconds.

    uv run --group bench benchmarks/second_order.py [digits] [autoencoder] [solver-step]

Two problems on scikit-learn's 1797 digits, batches of 256, float32, tanh:

    digits         64-64-32-10, cross-entropy: 2304 rows in a batch
    autoencoder    64-32-16-8-16-32-64, half the squared error: 16384 rows, 5544 parameters

kfac and ekfac take one random row of each example (`samples=1`). On the autoencoder they see all
1797 examples in a step and the curvature of 128 of them, and renew their inverses in every 20th
step; Adam runs there with both batches.

Every rule draws settings at random from its space (log-uniform), a trial of `TRIAL` seconds each,
until `TUNING` seconds of training are spent; the setting with the lowest training loss at the end
of its trial then runs `SECONDS` seconds from each of `SEEDS` fresh starts. The clock runs while
the compiled steps run: compiling, and the loss over all examples noted between chunks of steps,
stand still. The hyperparameters are traced, so that a rule compiles once.

`solver-step` takes one Levenberg-Marquardt step on a batch of digits by each solver, from the same
parameters with the same dampings: its price in steps of Adam, and how much lower the loss is after
it, as a share of what the exact step (the dual, 2304 rows) brings.
"""

import functools
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn import curvature, data, devices, layers, losses, rules, solvers

TUNING, TRIAL, SECONDS, SEEDS, BATCH, CHUNK = 18.0, 3.0, 6.0, 3, 256, 0.1
SHUFFLES = 50


class Problem(NamedTuple):
    """A model of digits, its loss and its targets."""

    sizes: tuple[int, ...]
    loss: Callable
    targets: Callable

    @property
    def model(self):
        """A tanh network."""
        *hidden, last = self.sizes[1:]
        stack = [
            part for size in hidden for part in (layers.dense(size), layers.elementwise(jnp.tanh))
        ]
        return layers.serial(*stack, layers.dense(last))


PROBLEMS = {
    "digits": Problem((64, 64, 32, 10), losses.softmax_cross_entropy, lambda _, labels: labels),
    "autoencoder": Problem(
        (64, 32, 16, 8, 16, 32, 64), losses.half_squared_error, lambda images, _: images
    ),
}


class Entry(NamedTuple):
    """A rule made from the structure of the model and hyperparameters, their ranges, its batch."""

    make: Callable
    space: dict[str, tuple[float, float]]
    batch: int = BATCH


def kronecker(rule, batch=BATCH, **static):
    """A rule that takes one random row of each example."""
    made = functools.partial(rule, samples=1, **static)
    return Entry(lambda structure, **h: made(structure, **h), {"damping": (1e-3, 1e2)}, batch)


through = functools.partial(solvers.conjugate_gradients, tolerance=0.0)
SOLVERS = {
    "kronecker, 2": through(2, precondition=solvers.kronecker),
    "kronecker, 4": through(4, precondition=solvers.kronecker),
    "kronecker, 8": through(8, precondition=solvers.kronecker),
    "kronecker, by progress": through(20, precondition=solvers.kronecker, progress=0.02),
    "nystrom(16), 4": through(4, precondition=solvers.nystrom(16)),
    "jacobi, 8": through(8, precondition=solvers.jacobi),
    "none, 8": through(8),
    "none, 20": through(20),
    "dual": solvers.dual(),
}

DIGITS = {
    "adam": Entry(lambda _, **h: rules.adam(**h), {"learning_rate": (3e-4, 3e-2)}),
    "momentum": Entry(
        lambda _, one_minus_decay, **h: rules.momentum(decay=1 - one_minus_decay, **h),
        {"learning_rate": (1e-3, 1.0), "one_minus_decay": (0.01, 0.3)},
    ),
    "levenberg_marquardt": Entry(
        lambda _, damping: rules.levenberg_marquardt(
            damping, rules.damping.constant(), solver=SOLVERS["kronecker, 4"]
        ),
        {"damping": (1e-4, 1e1)},
    ),
    "spring": Entry(
        lambda _, **h: rules.spring(**h),
        {"learning_rate": (1e-2, 1.0), "damping": (1e-4, 1e1)},
    ),
    "hessian_free": Entry(lambda _, **h: rules.hessian_free(**h), {"damping": (1e-4, 1e1)}),
    "kfac": kronecker(rules.kfac),
    "ekfac": kronecker(rules.ekfac),
}
ALL = 1797
ENTRIES = {
    "digits": DIGITS,
    "autoencoder": DIGITS
    | {
        "adam, all examples": DIGITS["adam"]._replace(batch=ALL),
        "kfac": kronecker(rules.kfac, ALL, examples=128, refresh=20),
        "ekfac": kronecker(rules.ekfac, ALL, examples=128, refresh=20),
    },
}


class Task(NamedTuple):
    """Everything about a problem that is made once."""

    objective: fnn.Objective
    inputs: jax.Array
    targets: jax.Array
    start: Callable  # key -> params
    structure: curvature.Structure


def prepared(problem):
    """The task of a problem."""
    digits = data.digits()
    inputs = jnp.asarray(digits.inputs, jnp.float32).reshape(len(digits.inputs), -1)
    targets = problem.targets(inputs, jnp.asarray(digits.targets))
    model = problem.model
    start = functools.partial(model.init, x=inputs[0])
    structure = curvature.structure(model.apply, start(jax.random.key(0)), inputs[0])
    objective = fnn.Objective(model.apply, problem.loss)
    return Task(objective, inputs, targets, start, structure)


class Runner:
    """A rule on a task: compiled once, for any setting and any number of steps."""

    def __init__(self, task, entry):
        """Compiles, and measures a step."""
        self.task, self.entry = task, entry

        @devices.jit
        def begin(key, setting):
            params = task.start(key)
            return params, entry.make(task.structure, **setting).init(params)

        @functools.partial(devices.jit, donate_argnums=0)
        def advance(carry, setting, inputs, targets, batches, done, steps):
            rule = entry.make(task.structure, **setting)

            def step(i, carry):
                params, state = carry
                chosen = batches[i % len(batches)]
                value_fn = task.objective.on((inputs[chosen], targets[chosen]))
                value, grad = jax.value_and_grad(value_fn)(params)
                updates, state = rule.update(
                    grad, state, params, value=value, grad=grad, value_fn=value_fn
                )
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(done, done + steps, step, carry)

        self.begin, self.advance = begin, advance
        self.loss = devices.jit(
            lambda params, inputs, targets: task.objective.on((inputs, targets))(params)
        )
        setting = {name: math.sqrt(low * high) for name, (low, high) in entry.space.items()}
        began = time.perf_counter()
        self.run(setting, 0, steps=1)
        self.compile_seconds = time.perf_counter() - began
        self.step_seconds = min(self.run(setting, 0, steps=3)[0][-1] / 3 for _ in range(2))

    def run(self, setting, seed, seconds=0.0, steps=None):
        """Seconds and training losses along a run of so many seconds, or steps in one chunk."""
        task, chunk = self.task, steps or max(1, round(CHUNK / self.step_seconds))
        setting = {name: jnp.float32(number) for name, number in setting.items()}
        examples, rng = len(task.inputs), np.random.default_rng(seed)
        batch = self.entry.batch
        used = examples // batch * batch
        batches = [rng.permutation(examples)[:used] for _ in range(SHUFFLES)]
        batches = jnp.asarray(np.reshape(batches, (-1, batch)), jnp.int32)
        carry = jax.block_until_ready(self.begin(jax.random.key(seed), setting))
        clock, count, times, values = 0.0, 0, [], []
        while not times or clock < seconds:
            began = time.perf_counter()
            carry = self.advance(carry, setting, task.inputs, task.targets, batches, count, chunk)
            jax.block_until_ready(carry)
            clock, count = clock + time.perf_counter() - began, count + chunk
            times.append(clock)
            values.append(float(self.loss(carry[0], task.inputs, task.targets)))
            if not math.isfinite(values[-1]):
                break
        return times, values, count


def tuned(runner, rng):
    """The best setting that trials of equal seconds found, and how many there were."""
    spent, trials = 0.0, []
    while spent < TUNING:
        setting = {
            name: math.exp(rng.uniform(math.log(low), math.log(high)))
            for name, (low, high) in runner.entry.space.items()
        }
        times, values, _ = runner.run(setting, 0, TRIAL)
        spent += max(times[-1], TRIAL)
        last = statistics.median(values[-3:])
        trials.append((last if math.isfinite(last) else math.inf, len(trials), setting))
    return min(trials)[2], len(trials)


def reached(times, values, target):
    """The first second at which the loss is at most the target."""
    return next((t for t, v in zip(times, values, strict=True) if v <= target), math.inf)


def race(name, problem):
    """The table of a problem."""
    task, rng, rows = prepared(problem), np.random.default_rng(0), {}
    for rule, entry in ENTRIES[name].items():
        runner = Runner(task, entry)
        setting, trials = tuned(runner, rng)
        runs = [runner.run(setting, seed, SECONDS) for seed in range(1, SEEDS + 1)]
        rows[rule] = {
            "setting": setting,
            "trials": trials,
            "compile_seconds": runner.compile_seconds,
            "milliseconds_a_step": 1e3 * statistics.median(t[-1] / n for t, _, n in runs),
            "final_loss": statistics.median(values[-1] for _, values, _ in runs),
            "curves": [(times, values) for times, values, _ in runs],
        }
        print(f"  {name}: {rule} {rows[rule]['final_loss']:.4g} {setting}", flush=True)
    target = rows["adam"]["final_loss"]  # of batches of 256
    for row in rows.values():
        row["seconds_to_adams_final_loss"] = statistics.median(
            reached(times, values, target) for times, values in row["curves"]
        )
    print(f"\n{name}: training loss after {SECONDS:g} s, medians of {SEEDS} starts")
    print(
        f"  {'':22}{'loss':>11}{'ms a step':>11}{'s to loss of adam':>19}{'compile s':>11}  setting"
    )
    for rule, row in sorted(rows.items(), key=lambda item: item[1]["final_loss"]):
        setting = " ".join(f"{key}={value:.2g}" for key, value in row["setting"].items())
        print(
            f"  {rule:22}{row['final_loss']:11.4g}{row['milliseconds_a_step']:11.2f}"
            f"{row['seconds_to_adams_final_loss']:19.2f}{row['compile_seconds']:11.1f}  {setting}"
        )
    return rows


def solver_steps(rounds=7, steps=10, before=(2, 5, 10), dampings=(0.1, 0.01, 0.001)):
    """Milliseconds of a step by each solver, and what it brings, beside Adam's."""
    task = prepared(PROBLEMS["digits"])
    order = np.random.default_rng(0).permutation(len(task.inputs))
    value_fn = task.objective.on((task.inputs[order[:BATCH]], task.targets[order[:BATCH]]))

    def advance(rule, count):
        @devices.jit
        def run(params, value_fn, damping):
            def step(_, carry):
                params, state = carry
                value, grad = jax.value_and_grad(value_fn)(params)
                updates, state = made.update(
                    grad, state, params, value=value, grad=grad, value_fn=value_fn
                )
                return optax.apply_updates(params, updates), state

            made = rule(damping)
            carry = params, made.init(params)
            return jax.lax.fori_loop(0, count, step, carry)[0]

        return run

    def by(solver):
        return lambda damping: rules.levenberg_marquardt(
            damping, rules.damping.constant(), solver=solver
        )

    start = task.start(jax.random.key(0))
    train = {n: advance(by(SOLVERS["kronecker, 8"]), n) for n in before}
    points = {n: train[n](start, value_fn, 0.1) for n in before}
    adam, value, rows = advance(lambda _: rules.adam(1e-3), steps), devices.jit(value_fn), {}
    for name, solver in SOLVERS.items():
        one, count = advance(by(solver), 1), 1 if name == "dual" else steps
        many = advance(by(solver), count)
        rows[name] = {"brought": {}}
        for n, damping in itertools.product(before, dampings):
            gain = float(value(points[n]) - value(one(points[n], value_fn, damping)))
            rows[name]["brought"][f"{n}, {damping}"] = gain
        ratios, seconds = [], []
        for i in range(-1, rounds):
            times = []
            for run, each in ((adam, steps), (many, count)):
                began = time.perf_counter()
                jax.block_until_ready(run(points[before[1]], value_fn, 0.01))
                times.append((time.perf_counter() - began) / each)
            if i >= 0:  # before, they compile
                ratios.append(times[1] / times[0])
                seconds.append(times[1])
        rows[name] |= {
            "milliseconds": 1e3 * statistics.median(seconds),
            "steps_of_adam": statistics.median(ratios),
        }
    for name, row in rows.items():
        exact = rows["dual"]["brought"]  # 0 where its step was rejected
        shares = [gain / (exact[at] or math.nan) for at, gain in row["brought"].items()]
        print(
            f"  {name:24}{row['milliseconds']:9.3f} ms{row['steps_of_adam']:9.1f} Adam  "
            + " ".join(f"{share:5.2f}" for share in shares)
        )
    print("  (loss it brought / that of the dual), at (steps before, damping):")
    print("  " + "; ".join(f"{at}: {gain:.2g}" for at, gain in rows["dual"]["brought"].items()))
    return rows


def main(chosen):
    """Prints the tables and writes the JSON."""
    path = Path(__file__).parent / "results" / "second_order-cpu.json"
    report = json.loads(path.read_text()) if chosen and path.exists() else {}
    packages = ("fnn", "jax", "jaxlib", "optax", "numpy", "scikit-learn")
    report |= {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
        "seconds": {"tuning": TUNING, "trial": TRIAL, "run": SECONDS, "starts": SEEDS},
    }
    parts = {name: functools.partial(race, name, problem) for name, problem in PROBLEMS.items()}
    for name, part in (parts | {"solver-step": solver_steps}).items():
        if not chosen or name in chosen:
            report[name] = part()
            path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
