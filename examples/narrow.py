"""Deep and narrow: rectified networks of n + 4 = 5 units a layer (Lu et al., 2017) on sin 3x.

uv run examples/narrow.py
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import initializers, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "narrow.png"
LINE = np.linspace(-1, 1, 100)[:, None]
WAVE = LINE, np.sin(3 * LINE)


def narrow(depth, seeds, steps):
    """The networks that Adam and Levenberg-Marquardt find from some starts, and their errors."""
    unit = layers.dense(5, weight=initializers.he_gaussian()), layers.elementwise(jax.nn.relu)
    model, found = layers.serial(*unit * depth, layers.dense(1)), {}
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    keys = jax.random.split(jax.random.key(1), seeds)
    params = jax.vmap(model.init, (0, None))(keys, LINE[0])
    for name, rule, count in (
        ("adam", rules.adam(0.003), steps),
        ("LM", rules.levenberg_marquardt(), steps // 7),
    ):
        runs = fnn.fits(rule, objective, params, WAVE, steps=count)
        outputs = jax.vmap(lambda p: objective.outputs(p, LINE))(runs.params)
        found[name] = np.asarray(outputs)[..., 0]
    return found


def main(depths=(1, 2, 5), seeds=8, steps=2000, picture=PICTURE):
    """Draws the picture; returns errors by depth and rule, of each start."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    errors = {}
    for depth in depths:
        for i, (name, outputs) in enumerate(narrow(depth, seeds, steps).items()):
            values = errors[depth, name] = np.mean((outputs - WAVE[1].T) ** 2, axis=1) / 2
            look = {"color": plots.COLORS[i], "label": name if depth == depths[0] else None}
            right.semilogy([depth + 0.2 * i] * seeds, values, "os"[i], alpha=0.6, **look)
            if depth == depths[-1]:
                left.plot(LINE, outputs[values.argmin()], color=plots.COLORS[i], label=name)
    left.plot(*WAVE, "k:", label="sin 3x")
    left.set(xlabel="x", title=f"the best of {seeds} starts, {depths[-1]} layers of five units")
    right.set(xlabel="layers of five units", ylabel="error", xticks=depths)
    right.set_title(f"{seeds} starts each; LM has a seventh of Adam's steps")
    for axes in (left, right):
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return errors


if __name__ == "__main__":
    for (depth, name), values in main().items():
        print(f"{depth} layers of 5, {30 * depth - 14} parameters, {name:5}: least error "
              f"{values.min():.1e}, median {np.median(values):.1e}")  # fmt: skip
