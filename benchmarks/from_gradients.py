"""What a step of Shampoo and of SOAP costs beside Adam's and Muon's, on networks of digits.

    uv run benchmarks/from_gradients.py

Batches of 64, float32, one compiled step in a Python loop as `fit` would compile it. Rules
alternate; a step is the median of 7 rounds of 50, and the dearest is the median over the rounds of
the longest step, which is one with a decomposition. Compiling is apart. Losses are those of the
whole set after 10 epochs, each rule with the best of three rates on one start: what it costs, and
what it brings. Writes `results/from_gradients-cpu.json`.
"""

import json
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from kronecker import convolutions

import fnn
from fnn import data, devices, layers, losses, rules

RESULTS = Path(__file__).parent / "results" / "from_gradients-cpu.json"
ROUNDS, STEPS, BATCH, EPOCHS = 7, 50, 64, 10
RATES = 1e-3, 3e-3, 1e-2
INPUTS, TARGETS = data.digits()
INPUTS = np.asarray(INPUTS, np.float32)
RULES = {
    "adam": rules.adam,
    "soap": rules.soap,
    "shampoo": rules.shampoo,
    "muon": optax.contrib.muon,
}


def perceptron(*widths):
    """Dense layers with rectifiers."""
    hidden = [part for w in widths for part in (layers.dense(w), layers.elementwise(jax.nn.relu))]
    return layers.serial(*hidden, layers.dense(10))


NETWORKS = {
    "64-64-32-10": perceptron(64, 32),
    "64-256-256-10": perceptron(256, 256),
    "conv16-pool-conv32-64-10": convolutions(),
}


def runner(rule, objective, params):
    """Runs a number of steps, and returns the seconds of each."""
    batch = INPUTS[:BATCH], TARGETS[:BATCH]

    @devices.jit
    def step(params, state):
        grad = jax.grad(objective.on(batch))(params)
        updates, state = rule.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    carry = [params, rule.init(params)]

    def run(steps):
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            carry[:] = jax.block_until_ready(step(*carry))
            seconds.append(time.perf_counter() - began)
        return seconds

    return run


def best_loss(make, objective, params):
    """The least loss of all digits after the epochs, over the rates."""

    def loss(rate):
        plan = {"epochs": EPOCHS, "batch_size": BATCH, "key": jax.random.key(1)}
        run = fnn.fit(make(rate), objective, params, (INPUTS, TARGETS), **plan)
        return float(objective.on((INPUTS, TARGETS))(run.params))

    return min((loss(rate), rate) for rate in RATES)


def rows_of(network):
    """A row for every rule."""
    model = NETWORKS[network]
    objective = fnn.Objective(model.apply, losses.softmax_cross_entropy)
    params = model.init(jax.random.key(0), jnp.asarray(INPUTS[0]))
    runs = {name: runner(make(1e-3), objective, params) for name, make in RULES.items()}
    for run in runs.values():
        run(12)
    rounds = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            rounds[name].append(run(STEPS))
    adam = [statistics.mean(seconds) for seconds in rounds["adam"]]
    for name, taken in rounds.items():
        means = [statistics.mean(seconds) for seconds in taken]
        loss, rate = best_loss(RULES[name], objective, params)
        yield {
            "network": network,
            "rule": name,
            "milliseconds": 1e3 * statistics.median(means),
            "times_adam": statistics.median(m / a for m, a in zip(means, adam, strict=True)),
            "dearest_milliseconds": 1e3 * statistics.median(map(max, taken)),
            "loss": loss,
            "rate": rate,
        }


def main():
    """Prints the table, and writes it."""
    rows = []
    print(
        f"{'network':26} {'rule':8} {'ms':>7} {'x adam':>7} {'dearest':>8} {'loss':>8} {'rate':>6}"
    )
    for network in NETWORKS:
        for row in rows_of(network):
            rows.append(row)
            print(
                f"{row['network']:26} {row['rule']:8} {row['milliseconds']:7.2f} "
                f"{row['times_adam']:7.2f} {row['dearest_milliseconds']:8.2f} {row['loss']:8.4f} "
                f"{row['rate']:6}"
            )
    packages = "fnn", "jax", "jaxlib", "optax"
    versions = {name: metadata.version(name) for name in packages}
    about = {"python": platform.python_version(), "cores": os.cpu_count(), **versions}
    RESULTS.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
