"""Look into a convolution network of digits: its filters by depth, and what excites its units.

uv run examples/filters.py
"""

import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import curvature, data, layers, losses, rules
from fnn.problems.problem import accuracy

PICTURE = Path(__file__).parent / "drawn" / "filters.png"
RELU = layers.elementwise(jax.nn.relu)
FEATURES = [layers.conv(8, (3, 3), padding="VALID") for _ in range(3)]
DEPTHS = [layers.serial(*[p for conv in FEATURES[:n] for p in (conv, RELU)]) for n in (1, 2, 3)]
MODEL = layers.serial(DEPTHS[2], layers.flatten(), layers.dense(10))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy)


def activity(params, depth, images):
    """What the units of a depth answer to images: (images, rows, columns, units)."""
    return jax.vmap(lambda x: DEPTHS[depth - 1].apply(params[0][: 2 * depth], x))(images)


def patches(params, depth, images, most=25):
    """The windows of each unit that excite it most: (units, most, size, size)."""
    size, found = 1 + 2 * depth, []
    answers = np.asarray(activity(params, depth, images))
    for unit in range(answers.shape[-1]):
        best = answers[..., unit].max(axis=(1, 2)).argsort()[: -most - 1 : -1]
        places = [np.unravel_index(a.argmax(), a.shape) for a in answers[best, ..., unit]]
        windows = [(slice(r, r + size), slice(c, c + size)) for r, c in places]
        found.append([images[i, *w, 0] for i, w in zip(best, windows, strict=True)])
    return np.array(found)


def draw(params, images):
    """The first layer's filters, and of each depth the mean of what excites each unit most."""
    figure, rows = plt.subplots(4, 8, figsize=(9, 5), layout="constrained")
    firsts = np.moveaxis(np.asarray(params[0][0]["weight"])[:, :, 0], -1, 0)
    tiles = [firsts, *(patches(params, depth, images).mean(axis=1) for depth in (1, 2, 3))]
    names = ["filters\nof layer 1", *(f"seen by\nlayer {depth}" for depth in (1, 2, 3))]
    for panels, name, windows in zip(rows, names, tiles, strict=True):
        panels[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, window in zip(panels, windows, strict=True):
            limit, signed = np.abs(window).max(), window.min() < 0
            look = {"cmap": "RdBu_r", "vmin": -limit} if signed else {"cmap": "gray_r"}
            axes.imshow(window, vmax=limit, **look)
            axes.set(xticks=[], yticks=[])
    figure.suptitle("eight units of each layer: the mean of the 25 windows that excite them most")
    return figure


def main(epochs=15, picture=PICTURE):
    """Draws the picture; returns the parameters of both rules, and their test accuracies."""
    inputs, targets = data.digits()
    examples = inputs.reshape(-1, 8, 8, 1).astype("float32"), targets
    train, test = data.split(examples, (2 / 3, 1 / 3), jax.random.key(0))
    start = MODEL.init(jax.random.key(1), train[0][0])
    known, fits = curvature.structure(MODEL.apply, start, train[0][0]), {}
    plan = {"batch_size": 100, "key": jax.random.key(2), "metrics": {"accuracy": accuracy}}
    for name, rule in {"Adam": rules.adam(0.01), "K-FAC": rules.kfac(known, samples=1)}.items():
        began = time.perf_counter()
        run = fnn.fit(rule, OBJECTIVE, start, train, epochs=epochs, validation=test, **plan)
        fits[name] = run.params, run.history.validation["accuracy"][-1]
        seconds = time.perf_counter() - began
        print(
            f"{name:5} {epochs} epochs, {seconds:.1f} s with compiling, {fits[name][1]:.1%} right"
        )
    draw(fits["K-FAC"][0], train[0]).savefig(picture, dpi=80)
    return fits


if __name__ == "__main__":
    main()
