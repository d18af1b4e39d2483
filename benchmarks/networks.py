"""Five networks of today: seconds to the validation loss that tuned AdamW ends with.

    uv run --group bench benchmarks/networks.py [convolutions] [residual] [transformer] [lstm]
        [autoencoder]

Every rule has four settings, each tried with two seeds for the epochs of the network; the setting
whose median of the lowest validation loss is lowest trains from twelve fresh seeds. All rules have
the same starts and the same order of batches, and rates that fall to zero like a cosine.

The goal is the median over these twelve of the lowest validation loss that AdamW came to. A seed's
time to it is the share of its steps that it took, times the seconds of its run; some 30 looks at
the validation data are part of that, compilation is not. Medians of an even number are the upper
one. Rules train one after the other in every seed, so that a busy minute meets all.

    convolutions    conv16-pool-conv32-dense64-dense10, digits of 8 x 8 pixels
    residual        conv16 and two residual blocks of two convolutions, the same digits
    transformer     two layers of width 64, four heads, 32 characters of sentences, see
                    `problems.sentences`
    lstm            16 units, the sum of two marked ones of 30 numbers
    autoencoder     64-48-24-8-24-48-64, tanh, the same digits

Muon orthogonalizes matrices and leaves the rest to Adam; it is of first order, and stands beside.
Writes `results/networks-cpu.json`, network by network.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from kronecker import convolutions, transformer
from kronecker import loss as loss_of_places

import fnn
from fnn import curvature, data, layers, losses, problems, rules

RESULTS = Path(__file__).parent / "results" / "networks-cpu.json"
LOOKS, TUNED_ON, SEEDS, BATCH = 30, 2, 12, 64
FIRST_ORDER = "adamw", "muon"


class Network(NamedTuple):
    """What is trained, on what, for how long."""

    model: layers.Layer
    loss: Callable
    train: Any
    validation: Any
    epochs: int
    leaves_out: tuple[str, ...] = ()


# The networks -------------------------------------------------------------------------------------


def digits(model, epochs):
    """A classifier of digits."""
    examples = jax.tree.map(np.asarray, data.digits())
    examples = examples.inputs.astype("float32"), examples.targets
    train, validation = data.split(examples, (0.8, 0.2), jax.random.key(0))
    return Network(model, losses.softmax_cross_entropy, train, validation, epochs)


def residual():
    """A convolution, two residual blocks of two each, and the mean over places."""
    relu = layers.elementwise(jax.nn.relu)

    def block(features):
        return serial(layers.conv(features, (3, 3)), relu, layers.conv(features, (3, 3)))

    serial = layers.serial
    return serial(
        layers.elementwise(lambda x: x.reshape(8, 8, 1)),
        *(layers.conv(16, (3, 3)), relu, layers.residual(block(16)), relu),
        *(layers.max_pool((2, 2)), layers.residual(block(16)), relu),
        *(layers.elementwise(lambda x: jnp.mean(x, axis=(0, 1))), layers.dense(10)),
    )


def sentences(epochs):
    """The next character of sentences, after up to 32."""
    text = problems.sentences(24_000)
    known = sorted(set(text))
    codes = np.array([known.index(character) for character in text])
    windows = codes[: len(codes) // 33 * 33].reshape(-1, 33)
    train, validation = windows[:-100], windows[-100:]
    pairs = [(part[:, :-1], part[:, 1:]) for part in (train, validation)]
    return Network(transformer(), loss_of_places, *pairs, epochs)


def adding(epochs, length=30):
    """The sum of the two numbers that are marked, one in either half."""
    rng = np.random.default_rng(0)

    def drawn(n):
        numbers, marks = rng.uniform(size=(n, length)), np.zeros((n, length))
        half = length // 2
        for start in (0, half):
            marks[np.arange(n), start + rng.integers(half, size=n)] = 1
        inputs = np.stack([numbers, marks], axis=-1).astype("float32")
        return inputs, (numbers * marks).sum(axis=1, keepdims=True).astype("float32")

    last = layers.elementwise(lambda h: h[-1])
    model = layers.serial(layers.scan_over(layers.lstm(16)), last, layers.dense(1))
    return Network(model, losses.half_squared_error, drawn(2000), drawn(400), epochs, ("kfac",))


def autoencoder(epochs):
    """Digits through eight numbers."""
    tanh, widths = layers.elementwise(jnp.tanh), (48, 24, 8, 24, 48)
    hidden = [part for n in widths for part in (layers.dense(n), tanh)]
    images = data.digits().inputs.astype("float32")
    train, validation = data.split((images, images), (0.8, 0.2), jax.random.key(0))
    model = layers.serial(*hidden, layers.dense(64))
    return Network(model, losses.half_squared_error, train, validation, epochs)


NETWORKS = {
    "convolutions": lambda: digits(convolutions(), 30),
    "residual": lambda: digits(residual(), 30),
    "transformer": lambda: sentences(30),
    "lstm": lambda: adding(60),
    "autoencoder": lambda: autoencoder(120),
}


# The rules ----------------------------------------------------------------------------------------


def falling(rate, steps):
    """A rate that falls to zero like a cosine, for every rule alike."""
    return optax.cosine_decay_schedule(rate, steps)


def settings(network, structure):
    """By rule, its four settings by their names."""
    steps = network.epochs * -(-len(network.train[0]) // BATCH)

    def rates(make, *values):
        return {f"rate {value:g}": make(falling(value, steps)) for value in values}

    def kfac(rate, damping):
        fixed = {"momentum": 0.9, "policy": rules.damping.constant(), "samples": 1}
        return rules.kfac(structure, falling(rate, steps), damping, **fixed)

    found = {
        "adamw": rates(lambda r: optax.adamw(r, weight_decay=1e-4), 1e-3, 3e-3, 1e-2, 3e-2),
        "muon": rates(optax.contrib.muon, 3e-3, 1e-2, 3e-2, 1e-1),
        "soap": rates(rules.soap, 1e-3, 3e-3, 1e-2, 3e-2),
        "shampoo": rates(rules.shampoo, 1e-3, 3e-3, 1e-2, 3e-2),
    }
    if "kfac" not in network.leaves_out:
        pairs = [(0.1, 0.1), (0.3, 1.0), (1.0, 10.0)]
        found["kfac"] = {f"rate {r:g}, damping {d:g}": kfac(r, d) for r, d in pairs}
        found["kfac"]["trust ratio"] = rules.kfac(structure, samples=1)
    return found


# Runs ---------------------------------------------------------------------------------------------


def trained(network, objective, rule, seed, epochs):
    """The validation losses of a run, one for each look, the lowest so far; and its seconds."""
    start = network.model.init(jax.random.key(seed), network.train[0][0])
    plan = {"batch_size": BATCH, "key": jax.random.key(1000 + seed), "tolerance": 0}
    plan |= {"validation": network.validation, "every": max(1, network.epochs // LOOKS)}
    began = time.perf_counter()
    run = fnn.fit(rule, objective, start, network.train, epochs=epochs, **plan)
    lost = np.asarray(run.history.validation["loss"])
    seconds = time.perf_counter() - began
    looks = -(-network.epochs // plan["every"])
    lost = np.pad(lost, (0, max(0, looks - len(lost))), constant_values=np.inf)[:looks]
    return np.minimum.accumulate(np.where(np.isfinite(lost), lost, np.inf)), seconds


def raced(network, seeds):
    """By rule its setting, the losses of all seeds and looks, and the seconds of their runs."""
    objective = fnn.Objective(network.model.apply, network.loss)
    start = network.model.init(jax.random.key(0), network.train[0][0])
    structure = curvature.structure(network.model.apply, start, network.train[0][0])
    chosen, compiling = {}, {}
    for rule, tried in settings(network, structure).items():
        lowest = {}
        for name, made in tried.items():
            began = time.perf_counter()
            trained(network, objective, made, 100, 1)
            compiling[rule] = time.perf_counter() - began
            runs = [
                trained(network, objective, made, 100 + i, network.epochs) for i in range(TUNED_ON)
            ]
            lowest[name] = float(np.median([lost[-1] for lost, _ in runs]))
        setting = min(lowest, key=lambda name: lowest[name])
        print(f"  {rule:8} {setting:22} of {lowest}", flush=True)
        chosen[rule] = setting, tried[setting]
    found = {rule: (setting, [], []) for rule, (setting, _) in chosen.items()}
    for seed in range(seeds):
        for rule, (_, made) in chosen.items():
            lost, seconds = trained(network, objective, made, seed, network.epochs)
            found[rule][1].append(lost)
            found[rule][2].append(seconds)
    return found, compiling


def middle(numbers):
    """The median, of an even count the upper one: where half arrive a mean would be infinite."""
    return float(np.quantile(numbers, 0.5, method="higher"))


def finite(number):
    """The number, or None in place of one that JSON has not."""
    return number if np.isfinite(number) else None


def table(name, network, seeds):
    """Prints how long each rule took to the loss of AdamW, and returns what is kept."""
    print(f"{name}: {network.epochs} epochs, batches of {BATCH}, {seeds} seeds", flush=True)
    found, compiling = raced(network, seeds)
    goal = middle([lost[-1] for lost in found["adamw"][1]])
    rows = {}
    for rule, (setting, losses_of, seconds) in found.items():
        lost, seconds = np.array(losses_of), np.array(seconds)
        there = lost <= goal
        share = np.where(there.any(axis=1), (1 + there.argmax(axis=1)) / lost.shape[1], np.inf)
        rows[rule] = {
            "setting": setting,
            "lowest": middle(lost[:, -1]),
            "reached": int(np.isfinite(share).sum()),
            "share_of_steps": middle(share),
            "seconds": middle(share * seconds),
            "seconds_of_a_run": middle(seconds),
            "compile_seconds": compiling[rule],
        }
    unit = rows["adamw"]["seconds"]
    head = ("lowest", "reached", "of steps", "seconds", "of AdamW's")
    print(f"  {'':8}" + "".join(f"{word:>12}" for word in head) + "   setting")
    for rule, row in rows.items():
        row["of_adamw"] = row["seconds"] / unit
        cells = f"{row['lowest']:12.4g}{row['reached']:9}/{seeds}{row['share_of_steps']:12.2f}"
        print(f"  {rule:8}{cells}{row['seconds']:12.2f}{row['of_adamw']:12.2f}   {row['setting']}")
    second = {rule: row["of_adamw"] for rule, row in rows.items() if rule not in FIRST_ORDER}
    best = min(second, key=lambda rule: second[rule])
    print(f"  the best of second order: {best}, {second[best]:.2f} of AdamW's time", flush=True)
    kept = {
        rule: {k: v if k == "setting" else finite(v) for k, v in row.items()}
        for rule, row in rows.items()
    }
    return {"epochs": network.epochs, "goal": goal, "best": best, "rules": kept}


def main(*names, seeds=SEEDS):
    """Races on some networks, or all; writes the JSON after each."""
    for name in names or NETWORKS:
        rows = table(name, NETWORKS[name](), seeds)
        report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        packages = ("fnn", "jax", "jaxlib", "optax", "numpy", "scikit-learn")
        report |= {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "versions": {package: metadata.version(package) for package in packages},
            "seeds": seeds,
            name: rows | {"load": os.getloadavg()[0]},
        }
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
