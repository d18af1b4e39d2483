"""A deep belief network of digits: does pre-training without labels help, with 100 and with 1000?

uv run examples/belief.py
"""

import itertools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import boltzmann, curvature, data, initializers, layers, losses, plots, problems, rules

PICTURE = Path(__file__).parent / "drawn" / "belief.png"
GLOROT, logistic = initializers.glorot_gaussian(), layers.elementwise(jax.nn.sigmoid)
WIDTHS = 64, 32  # of hidden layers
DENSE = [layers.dense(n, weight=GLOROT) for n in (*WIDTHS, 10)]
MODEL = layers.serial(DENSE[0], logistic, DENSE[1], logistic, DENSE[2])
OBJECTIVE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy)
PARAMS = MODEL.init(jax.random.key(0), np.ones(64))
KFAC = rules.kfac(curvature.structure(MODEL.apply, PARAMS, np.ones(64)))
RULES = {"Adam": (rules.adam(3e-3), 20), "K-FAC": (KFAC, 1)}  # and shares of steps


def pretrained(params, inputs, key, epochs):
    """The network with hidden layers as restricted Boltzmann machines learned them."""
    machines = boltzmann.pretrain(rules.sgd(0.1), WIDTHS, inputs, key=key, epochs=epochs)
    first, second = ({"weight": m.weights, "bias": m.hidden} for m in machines)
    return first, params[1], second, *params[3:]


def compared(sizes, seeds, steps, epochs):
    """Accuracies on held-out digits by labels, rule and start: a row for each seed, and steps."""
    (inputs, targets), found = data.digits(), {}
    inputs = jnp.asarray(inputs > 0.4, float)
    for key in jax.random.split(jax.random.key(0), seeds):
        train, test = np.split(np.asarray(jax.random.permutation(key, len(inputs))), [1000])
        plain, held = MODEL.init(key, inputs[0]), (inputs[test], targets[test])
        starts = {"Glorot": plain, "pre-trained": pretrained(plain, inputs[train], key, epochs)}
        for n, rule, start in itertools.product(sizes, RULES, starts):
            (runner, share), began = RULES[rule], time.perf_counter()
            plan = {"steps": steps * share, "batch_size": 100, "key": key, "tolerance": 0}
            plan |= {"validation": held, "metrics": {"right": problems.accuracy}}
            some = inputs[train[:n]], targets[train[:n]]
            history = fnn.fit(runner, OBJECTIVE, starts[start], some, **plan).history
            run = history.steps, history.validation["right"], time.perf_counter() - began
            found.setdefault((n, rule, start), []).append(run)
    return {which: [*map(np.array, zip(*rows, strict=True))] for which, rows in found.items()}


def draw(found, sizes):
    """Mean accuracies of the seeds by step, a panel for each number of labels."""
    figure = plt.figure(figsize=(12, 4.4), layout="constrained")
    for axes, n in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        curves = {which[1:]: rows for which, rows in found.items() if which[0] == n}
        for i, (which, (steps, rows, _)) in enumerate(curves.items()):
            (color, dash, _), mean, spread = plots.style(i), rows.mean(axis=0), rows.std(axis=0)
            label = f"{', '.join(which)}: {mean[-1]:.3f} +- {spread[-1]:.3f}"
            axes.plot(steps[0], mean, color=color, dashes=dash, label=label)
        axes.set(xscale="log", xlabel="steps", ylabel="held-out digits right", title=f"{n} labels")
        axes.legend(frameon=False, loc="lower right")
    return figure


def main(sizes=(100, 1000), seeds=5, steps=100, epochs=50, picture=PICTURE):
    """Draws the picture; returns accuracies at the end by labels, rule and start, a row a seed."""
    found = compared(sizes, seeds, steps, epochs)
    draw(found, sizes).savefig(picture, dpi=80)
    for (n, rule, start), (_, rows, seconds) in found.items():
        print(f"{rule}, {n} labels, {start}, {np.median(seconds):.1f} s:", rows[:, -1].round(3))
    return {which: rows[:, -1] for which, (_, rows, _) in found.items()}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
