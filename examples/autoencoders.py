"""A deep autoencoder draws a map of digits: a code of two numbers, beside that of PCA.

uv run examples/autoencoders.py
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

PICTURE = Path(__file__).parent / "drawn" / "autoencoders.png"
TANH = layers.elementwise(jnp.tanh)
ENCODER = layers.serial(layers.dense(64), TANH, layers.dense(32), TANH, layers.dense(2))
DECODER = layers.serial(layers.dense(32), TANH, layers.dense(64), TANH, layers.dense(64))
MODEL = layers.serial(ENCODER, DECODER)
OBJECTIVE = fnn.Objective(MODEL.apply, losses.half_squared_error)


def neighbors_agree(codes, digits):
    """The share of codes whose nearest other code is of the same digit."""
    distances = np.sum((codes[:, None] - codes) ** 2, axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.mean(digits[distances.argmin(axis=1)] == digits)


def draw(planes, digits, curves, pca):
    """The codes of new digits by PCA and by a deep network, and how the latter was trained."""
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
    for axes, (name, codes) in zip(panels, planes.items(), strict=False):
        plots.codes(axes, codes, digits)
        axes.set_title(f"{name}: {neighbors_agree(codes, digits):.0%} are nearest to their like")
    for i, (name, values) in enumerate(curves.items()):
        color, dash, _ = plots.style(i)
        panels[2].plot(range(1, len(values) + 1), values, color=color, dashes=dash, label=name)
    panels[2].axhline(pca, color="black", linewidth=0.8, label="PCA")
    panels[2].set(xlabel="epochs", ylabel="variance of new digits that is left", ylim=(0.4, 1.1))
    panels[2].set_title("64-64-32-2-32-64-64, trained by two rules")
    panels[2].spines[["top", "right"]].set_visible(False)
    panels[2].legend(frameon=False)
    return figure


def main(epochs=80, picture=PICTURE):
    """Draws the picture; returns what is left of new digits by PCA and by each rule, and planes."""
    (images, _), (unseen, digits) = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    centered, total = unseen - images.mean(axis=0), np.sum((unseen - images.mean(axis=0)) ** 2)
    axes = np.linalg.svd(images - images.mean(axis=0), full_matrices=False)[2][:2]
    pca = 1 - np.sum((centered @ axes.T) ** 2) / total
    start = MODEL.init(jax.random.key(1), images[0])
    known = curvature.structure(MODEL.apply, start, images[0])
    plan = {"epochs": epochs, "batch_size": 128, "key": jax.random.key(2)}
    plan |= {"validation": (unseen, unseen)}
    curves, planes = {}, {"PCA": centered @ axes.T}
    print(f"rule  parameters steps seconds  variance of new digits left (PCA {pca:.3f})")
    for name, rule in {"adam": rules.adam(3e-3), "kfac": rules.kfac(known, samples=1)}.items():
        began = time.time()
        run = fnn.fit(rule, OBJECTIVE, start, (images, images), **plan)
        curves[name] = run.history.validation["loss"] * 2 * len(unseen) / total
        counts = f"{optax.tree.size(start):10} {len(run.history.value):5}"
        print(f"{name:5} {counts} {time.time() - began:7.1f}  {curves[name][-1]:.3f}")
        codes = jax.vmap(ENCODER.apply, (None, 0))(run.params[0], unseen)
        planes["deep, " + name] = np.asarray(codes)
    shown = {"PCA": planes["PCA"], "deep": planes["deep, kfac"]}
    draw(shown, digits, curves, pca).savefig(picture, dpi=80)
    agree = {name: neighbors_agree(codes, digits) for name, codes in planes.items()}
    return {name: values[-1] for name, values in curves.items()}, pca, agree


if __name__ == "__main__":
    print(main()[2])
