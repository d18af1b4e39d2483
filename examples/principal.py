"""A linear autoencoder is PCA, and one with a bent code is no better.

uv run examples/principal.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import curvature, data, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "principal.png"
CODE = 2
LINEAR = layers.serial(layers.dense(CODE), layers.dense(64))
BENT = layers.serial(layers.dense(CODE), layers.elementwise(jnp.tanh), layers.dense(64))


def train(network, rule, images, steps):
    """Parameters, their number, the share of the variance left before each step, and seconds."""
    params = network.init(jax.random.key(1), images[0])
    if rule is rules.kfac:
        rule = rules.kfac(curvature.structure(network.apply, params, images[0]))
    objective, began = fnn.Objective(network.apply, losses.half_squared_error), time.time()
    run = fnn.fit(rule, objective, params, (images, images), steps=steps, tolerance=0)
    left = run.history.value * 2 / images.var(axis=0).sum()
    return run.params, optax.tree.size(params), left, time.time() - began


def draw(curves, least, axes, decoder):
    """How far each is from PCA, and what the axes of PCA and of the decoder look like."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, (name, curve) in enumerate(curves.items()):
        color, dash, _ = plots.style(i)
        left.plot(range(1, len(curve) + 1), curve - least, color=color, dashes=dash, label=name)
    left.set(xscale="log", yscale="log", xlabel="steps", ylabel="share of variance left, above PCA")
    left.set_title(f"64-{CODE}-64 on digits: all end at PCA's {least:.4f}, none below it")
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, loc="center right")
    turned = axes @ np.linalg.pinv(decoder) @ decoder
    plots.features(right, np.concatenate([axes, decoder, turned]), (8, 8), columns=CODE)
    for row, name in enumerate(("PCA's axes", "the decoder's weights", "mixed: PCA's axes")):
        right.text(-1.2, 9 * row + 3.5, name, ha="right", va="center")
    right.set_title("other axes of the same plane")
    return figure


def main(n=600, steps=1000, second=35, picture=PICTURE):
    """Draws the picture; returns what is left by network and rule, by PCA, and cosines."""
    images = data.digits().inputs[:n]
    centered = images - images.mean(axis=0)
    axes = np.linalg.svd(centered, full_matrices=False)[2][:CODE]
    least = 1 - np.sum((centered @ axes.T) ** 2) / np.sum(centered**2)
    plans = {
        "linear, adam": (LINEAR, rules.adam(1e-2), steps),
        "linear, trust_region_newton": (LINEAR, rules.trust_region_newton(), second),
        "tanh, adam": (BENT, rules.adam(1e-2), steps),
        "tanh, kfac": (BENT, rules.kfac, 2 * second),
    }
    runs = {name: train(*what[:2], images, what[2]) for name, what in plans.items()}
    print(f"{'64-2-64':28} parameters  steps  seconds  variance left, above PCA's {least:.6f}")
    for name, (_, size, left, seconds) in runs.items():
        print(f"{name:28} {size:10} {len(left):6} {seconds:8.1f}  {left[-1] - least:.1e}")
    decoder = runs["linear, trust_region_newton"][0][1]["weight"]
    cosines = np.linalg.svd(axes @ np.linalg.qr(decoder.T)[0])[1]
    print("cosines between the decoder's plane and PCA's:", cosines)
    curves = {name: left for name, (_, _, left, _) in runs.items()}
    draw(curves, least, axes, decoder).savefig(picture, dpi=80)
    return {name: left[-1] for name, left in curves.items()}, least, cosines


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
