"""Race momentum, Adam and K-FAC on five famous convolution networks of digits, from equal starts.

uv run examples/architectures.py
"""

import runpy
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import curvature, data, losses, plots, rules
from fnn.problems.problem import accuracy

PICTURE = Path(__file__).parent / "drawn" / "architectures.png"
NETWORKS = runpy.run_path(str(Path(__file__).with_name("networks.py")))["NETWORKS"]


def race(network, seeds, epochs):
    """By rule the seconds of a run, and by seed and epoch the test digits' loss and accuracy."""
    images = data.digits().inputs.reshape(-1, 8, 8, 1).astype("float32")
    examples = images, data.digits().targets
    train, test = data.split(examples, (2 / 3, 1 / 3), jax.random.key(0))
    objective = fnn.Objective(network.apply, losses.softmax_cross_entropy)
    starts = [network.init(jax.random.key(seed), test[0][0]) for seed in range(seeds)]
    known = curvature.structure(network.apply, starts[0], test[0][0])
    runners = rules.momentum(0.05), rules.adam(0.01), rules.kfac(known, samples=1)
    plan = {"validation": test, "metrics": {"accuracy": accuracy}, "key": jax.random.key(0)}
    plan |= {"data": train, "batch_size": 100}
    runs = {}
    for name, rule in zip(("momentum", "Adam", "K-FAC"), runners, strict=True):
        fnn.fit(rule, objective, starts[0], epochs=1, **plan)  # compiles
        began = time.perf_counter()
        seen = [fnn.fit(rule, objective, start, epochs=epochs, **plan).history for start in starts]
        lost, right = (np.array([h.validation[of] for h in seen]) for of in ("loss", "accuracy"))
        runs[name] = (time.perf_counter() - began) / seeds, lost, right[:, -1]
    return runs


def arrivals(lost, goals):
    """After how many epochs each seed's loss first is its goal or less; infinity for never."""
    there = lost <= goals[:, None]
    return np.where(there.any(axis=1), 1 + there.argmax(axis=1), np.inf)


def draw(table):
    """Of each network the test loss against epochs, all seeds and their median."""
    figure, panels = plt.subplots(1, len(table), figsize=(12.5, 3.6), sharey=True, layout="tight")
    for axes, (name, runs) in zip(np.atleast_1d(panels), table.items(), strict=True):
        for i, (rule, (_, lost, right)) in enumerate(runs.items()):
            look = {"color": plots.style(i).color, "dashes": plots.style(i).dash}
            epochs, label = np.arange(1, lost.shape[1] + 1), f"{rule}, {right.mean():.1%} right"
            axes.plot(epochs, lost.T, color=look["color"], linewidth=0.5, alpha=0.5)
            axes.plot(epochs, np.median(lost, axis=0), label=label, **look)
        axes.set(yscale="log", ylim=(0.015, 15), title=name, xlabel="epochs")
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    np.atleast_1d(panels)[0].set_ylabel("loss of test digits")
    return figure


def main(names=tuple(NETWORKS), seeds=5, epochs=15, picture=PICTURE):
    """Draws the picture and prints the table; returns what `race` found of each network."""
    print("network   rule     seconds accuracy          epochs, seconds to Adam's last loss")
    table = {name: race(NETWORKS[name], seeds, epochs) for name in names}
    for name, runs in table.items():
        for rule, (seconds, lost, right) in runs.items():
            there = np.median(arrivals(lost, runs["Adam"][1][:, -1]))
            print(
                f"{name:9} {rule:9}{seconds:7.2f} {right.mean():.3f} +- {right.std():.3f}", end=""
            )
            print(f"{there:8.0f} {there * seconds / epochs:8.2f}", flush=True)
    draw(table).savefig(picture, dpi=80)
    return table


if __name__ == "__main__":
    main()
