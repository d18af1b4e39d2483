"""Need hidden units learn? Random ones beside trained ones, on a hundred digits.

uv run examples/random_rectifiers.py
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import curvature, data, initializers, layers, losses, plots, rules
from fnn.problems.problem import accuracy

PICTURE = Path(__file__).parent / "drawn" / "random_rectifiers.png"
UNITS = {"rectified": jax.nn.relu, "logistic": jax.nn.sigmoid}
TRAIN, TEST = data.split(data.digits(), (100 / 1797, 1697 / 1797), jax.random.key(0))


def digits(unit, hidden, seeds, steps):
    """Accuracies after 100 digits: all layers or the last one, by first and second order."""
    unit = layers.elementwise(UNITS[unit])
    model = layers.serial(
        layers.dense(hidden, weight=initializers.he_gaussian()), unit, layers.dense(10)
    )
    objective = fnn.Objective(model.apply, losses.softmax_cross_entropy) + fnn.l2(1e-3)
    keys = jax.random.split(jax.random.key(1), seeds)
    params = jax.vmap(model.init, (0, None))(keys, TEST.inputs[0])
    last = {"weight": False, "bias": False}, (), {"weight": True, "bias": True}
    known = curvature.structure(model.apply, jax.tree.map(lambda p: p[0], params), TEST.inputs[0])
    planned = {
        "trained, adam": (rules.adam(0.01), steps),
        "trained, K-FAC": (rules.kfac(known), steps // 5),
        "random, adam": (rules.only(rules.adam(0.01), last), steps),
        "random, LM": (rules.only(rules.levenberg_marquardt(), last), steps // 10),
    }
    how, right = {"validation": TEST, "metrics": {"right": accuracy}}, {}
    for name, (rule, count) in planned.items():
        runs = fnn.fits(rule, objective, params, TRAIN, steps=count, every=count, **how)
        right[name] = np.array([history.validation["right"][-1] for history in runs.history])
    return right


def main(hidden=50, seeds=8, steps=100, picture=PICTURE):
    """Draws the picture; returns accuracies by units and rules, of each start."""
    figure, axes = plt.subplots(figsize=(11, 4), layout="constrained")
    found = {unit: digits(unit, hidden, seeds, steps) for unit in UNITS}
    for i, (unit, shares) in enumerate(found.items()):
        look = {"color": plots.COLORS[i], "marker": "os"[i]}
        for place, values in enumerate(shares.values()):
            where = place + 0.3 * i + plots.jitter(seeds) / 4
            axes.plot(where, values, linestyle="", alpha=0.6, **look)
            axes.annotate(f"{values.mean():.3f}", (place + 0.3 * i + 0.09, values.mean()))
        axes.plot([], [], linestyle="", label=f"{unit} units", **look)
    axes.set_xticks(np.arange(4) + 0.15, shares)
    axes.set_ylabel("share of other digits that is right")
    axes.set_title(
        f"64-{hidden}-10 after 100 digits, {seeds} starts: hidden weights random or trained"
    )
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(picture, dpi=80)
    return found


if __name__ == "__main__":
    for unit, shares in main().items():
        for name, values in shares.items():
            print(f"64-50-10, {unit} units, {name:15}{values.mean():6.3f} +- {values.std():.3f}")
