"""Five networks of today: seconds to the validation loss that tuned AdamW ends with.

    uv run --group bench benchmarks/networks.py [convolutions] [residual] [transformer] [lstm]
        [autoencoder]

Every rule has four settings, each tried with four seeds for the epochs of the network; the one
whose loss is lowest is tried for a half and a fourth of the epochs, too. All rates fall to zero
like a cosine at the end of their own epochs. Of the six tries, AdamW's is the one with the lowest
validation loss, and every other rule's the one that with all seeds came to what AdamW reached with
all in the fewest seconds (where none did, the one with the lowest loss). These train from twelve
fresh seeds, with the same starts and orders of batches for every rule.

The goal is the median over the twelve of the lowest validation loss that AdamW came to. A seed's
time to it is the share of its steps that it took, times the seconds of its run; 12 to 30 looks at
the validation data are part of that, compilation is not. Medians of an even number are the upper
one. Rules train one after the other in every seed, so that a busy minute meets all.

    convolutions    conv16-pool-conv32-dense64-dense10, digits of 8 x 8 pixels
    residual        conv16 and two residual blocks of two convolutions, the same digits
    transformer     two layers of width 64, four heads, 32 characters of sentences, see
                    `problems.sentences`; without K-FAC, whose step takes 3.6 of AdamW's there
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
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from kronecker import convolutions, transformer

import fnn
from fnn import curvature, data, layers, losses, problems, rules

RESULTS = Path(__file__).parent / "results" / "networks-cpu.json"
LOOKS, TUNED_ON, SEEDS, BATCH = 30, 4, 12, 64
SHORTER = 2, 4
MATRICES = {"refresh": 50, "longest": 256}  # of SOAP and Shampoo
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
    text = problems.sentences(72_000)
    known = sorted(set(text))
    codes = np.array([known.index(character) for character in text])
    windows = codes[: len(codes) // 33 * 33].reshape(-1, 33)
    train, validation = windows[:-100], windows[-100:]
    pairs = [(part[:, :-1], part[:, 1:]) for part in (train, validation)]
    loss = losses.each(losses.softmax_cross_entropy)
    return Network(transformer(), loss, *pairs, epochs, ("kfac",))


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
    "transformer": lambda: sentences(12),
    "lstm": lambda: adding(60),
    "autoencoder": lambda: autoencoder(120),
}


# The rules ----------------------------------------------------------------------------------------


def settings(structure, leaves_out):
    """By rule, its four settings: what they make of a number of steps, by their names."""

    def falling(make, rate):
        return lambda steps: make(optax.cosine_decay_schedule(rate, steps))

    def rates(make, *values):
        return {f"rate {value:g}": falling(make, value) for value in values}

    def fixed(rate, damping):
        kept = {"momentum": 0.9, "policy": rules.damping.constant(), "samples": 1}
        return falling(lambda r: rules.kfac(structure, r, damping, **kept), rate)

    def adaptive(every, refresh):
        return lambda _: rules.kfac(structure, samples=1, every=every, refresh=refresh)

    found = {
        "adamw": rates(lambda r: optax.adamw(r, weight_decay=1e-4), 1e-3, 3e-3, 1e-2, 3e-2),
        "muon": rates(optax.contrib.muon, 3e-3, 1e-2, 3e-2, 1e-1),
        "soap": {
            f"{name}, b1 {b1}": make
            for b1 in (0.9, 0.95)
            for name, make in rates(partial(rules.soap, b1=b1, **MATRICES), 1e-2, 3e-2).items()
        },
        "shampoo": rates(partial(rules.shampoo, **MATRICES), 3e-3, 1e-2, 3e-2, 1e-1),
        "kfac": {"rate 1, damping 10": fixed(1, 10)}
        | {f"every {n}, refresh {m}": adaptive(n, m) for n, m in ((1, 10), (10, 10), (10, 50))},
    }
    return {name: tried for name, tried in found.items() if name not in leaves_out}


# Runs ---------------------------------------------------------------------------------------------


class Try(NamedTuple):
    """A rule for some epochs; what it came to with the seeds of the tuning.

    Attributes:
        name: its setting.
        rule: the rule, made for so many steps.
        epochs: how many.
        runs: the losses at all looks, and the seconds of a run.
        compiling: the seconds of the first call.
    """

    name: str
    rule: Any
    epochs: int
    runs: list[tuple[np.ndarray, float]]
    compiling: float

    @property
    def highest(self):
        """The highest of the lowest losses: all seeds came there."""
        return max(lost[-1] for lost, _ in self.runs)

    @property
    def lowest(self):
        """The median of the lowest losses."""
        return float(np.median([lost[-1] for lost, _ in self.runs]))

    def seconds_to(self, goal):
        """The most seconds of a run until its loss is at the goal."""
        return max(share_to(goal, lost) * seconds for lost, seconds in self.runs)


def share_to(goal, lost):
    """The share of its looks that a run took to a loss."""
    there = lost <= goal
    return (1 + there.argmax()) / len(lost) if there.any() else np.inf


def trained(network, objective, rule, seed, epochs):
    """The lowest validation loss so far at each look of a run; and the seconds of the run."""
    start = network.model.init(jax.random.key(seed), network.train[0][0])
    plan = {"batch_size": BATCH, "key": jax.random.key(1000 + seed), "tolerance": 0}
    plan |= {"validation": network.validation, "every": max(1, network.epochs // LOOKS)}
    began = time.perf_counter()
    run = fnn.fit(rule, objective, start, network.train, epochs=epochs, **plan)
    lost = np.asarray(run.history.validation["loss"])
    seconds = time.perf_counter() - began
    looks = -(-epochs // plan["every"])
    lost = np.pad(lost, (0, max(0, looks - len(lost))), constant_values=np.inf)[:looks]
    return np.minimum.accumulate(np.where(np.isfinite(lost), lost, np.inf)), seconds


def tried(network, objective, name, make, epochs):
    """A setting after the seeds of the tuning."""
    rule, began = make(epochs * -(-len(network.train[0]) // BATCH)), time.perf_counter()
    trained(network, objective, rule, 100, 1)
    compiling = time.perf_counter() - began
    runs = [trained(network, objective, rule, 100 + i, epochs) for i in range(TUNED_ON)]
    return Try(name, rule, epochs, runs, compiling)


def tuned(network, objective, settings, goal):
    """The best of six tries: the first to the goal, or the lowest where none is given or came."""
    tries = [tried(network, objective, *item, network.epochs) for item in settings.items()]
    best = min(tries, key=lambda each: each.lowest)
    for part in SHORTER:
        epochs = network.epochs // part
        again = tried(network, objective, best.name, settings[best.name], epochs)
        tries.append(again._replace(name=f"{best.name}, {epochs} epochs"))
    for each in tries:
        seconds = np.inf if goal is None else each.seconds_to(goal)
        print(f"    {each.name:34} lowest {each.lowest:.4g}, to the goal {seconds:.2f} s")
    if goal is None or all(np.isinf(each.seconds_to(goal)) for each in tries):
        return min(tries, key=lambda each: each.lowest)
    return min(tries, key=lambda each: each.seconds_to(goal))


def raced(network, seeds):
    """By rule its setting, and the losses and seconds of all seeds."""
    objective = fnn.Objective(network.model.apply, network.loss)
    start = network.model.init(jax.random.key(0), network.train[0][0])
    structure = curvature.structure(network.model.apply, start, network.train[0][0])
    chosen, goal = {}, None
    for rule, offered in settings(structure, network.leaves_out).items():
        print(f"  {rule}", flush=True)
        chosen[rule] = tuned(network, objective, offered, goal)
        goal = chosen["adamw"].highest
    runs = {rule: [] for rule in chosen}
    for seed in range(seeds):
        for rule, made in chosen.items():
            runs[rule].append(trained(network, objective, made.rule, seed, made.epochs))
    return chosen, runs


def middle(numbers):
    """The median, of an even count the upper one: where half arrive a mean would be infinite."""
    return float(np.quantile(numbers, 0.5, method="higher"))


def finite(number):
    """The number, or None in place of one that JSON has not."""
    return number if np.isfinite(number) else None


def table(name, network, seeds):
    """Prints how long each rule took to the loss of AdamW, and returns what is kept."""
    print(f"{name}: {network.epochs} epochs, batches of {BATCH}, {seeds} seeds", flush=True)
    chosen, runs = raced(network, seeds)
    goal = middle([lost[-1] for lost, _ in runs["adamw"]])
    rows = {}
    for rule, made in chosen.items():
        shares = np.array([share_to(goal, lost) for lost, _ in runs[rule]])
        seconds = np.array([seconds for _, seconds in runs[rule]])
        rows[rule] = {
            "setting": made.name,
            "lowest": middle([lost[-1] for lost, _ in runs[rule]]),
            "reached": int(np.isfinite(shares).sum()),
            "epochs": middle(shares * made.epochs),
            "seconds": middle(shares * seconds),
            "seconds_of_a_run": middle(seconds),
            "compile_seconds": made.compiling,
        }
    unit = rows["adamw"]["seconds"]
    head = ("lowest", "reached", "epochs", "seconds", "of AdamW's")
    print(f"  {'':8}" + "".join(f"{word:>12}" for word in head) + "   setting")
    for rule, row in rows.items():
        row["of_adamw"] = row["seconds"] / unit
        cells = f"{row['lowest']:12.4g}{row['reached']:9}/{seeds}{row['epochs']:12.1f}"
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
        packages = ("jax", "jaxlib", "optax", "numpy", "scikit-learn")
        report |= {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "versions": {p: metadata.version(p) for p in packages} | {"fnn": fnn.__version__},
            "seeds": seeds,
            name: rows | {"load": os.getloadavg()[0]},
        }
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
