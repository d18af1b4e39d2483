"""What the scripts that see drawn shapes share: a backbone, two rules, a score, pictures."""

import time

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import curvature, layers, plots, rules
from fnn.layers import max_pool, serial

COLORS = ["#f4f4f4", *(plots.style(i).color for i in range(3))]  # of the background and the classes


def conv(features):
    """A convolution and its rectifier."""
    return serial(layers.conv(features, (3, 3)), layers.elementwise(jax.nn.relu))


COARSE = serial(max_pool((2, 2)), conv(24))
BACKBONE = serial(conv(8), max_pool((2, 2)), conv(16), layers.fan_out(serial(), COARSE))
CELLS = np.arange(36)  # of 4 x 4 pixels: each answers for the shape whose middle it holds


def compared(name, objective, params, examples, steps, curved=8):
    """Trains by Adam and by K-FAC, so many steps each, from one start; prints a row for each.

    Args:
        name: what is trained.
        objective: the model, and its loss.
        params: where both start.
        examples: to learn from.
        steps: of Adam and of K-FAC; 0 leaves a rule out.
        curved: examples of a batch that K-FAC takes the curvature of; None takes all.

    Returns:
        The fits, by rule.
    """
    inputs = jax.tree.map(lambda leaf: leaf[0], examples[0])
    known = curvature.structure(objective.model, params, inputs)
    decay = optax.cosine_decay_schedule(0.01, max(1, steps[0]))
    runners = {"Adam": rules.adam(decay), "K-FAC": rules.kfac(known, samples=1, examples=curved)}
    runs = {}
    for (rule, runner), most in zip(runners.items(), steps, strict=True):
        if not most:
            continue
        plan = {"batch_size": 32, "key": jax.random.key(1)}
        fnn.fit(runner, objective, params, examples, steps=1, **plan)  # compiles
        began = time.perf_counter()
        runs[rule] = fnn.fit(runner, objective, params, examples, steps=most, **plan)
        seconds = time.perf_counter() - began
        row = f"{name}, {optax.tree.size(params):,} parameters, {rule:5}: {most:5} steps"
        print(f"{row}, {seconds:.1f} s, loss {runs[rule].history.value[-10:].mean():.4f}")
    return runs


def score(logits, found, masks, kinds):
    """Precision and recall at an overlap of a half: right of what is found, of what is there."""
    sure, named = logits.max(axis=-1) > 0, 1 + logits.argmax(axis=-1)
    both = np.einsum("ncxy,nmxy->ncm", found.astype(float), masks.astype(float))
    either = found.sum((2, 3))[..., None] + masks.sum((2, 3))[:, None] - both
    right = sure[..., None] & (named[..., None] == kinds[:, None]) & (2 * both > either)
    right = right.any(axis=1).sum()  # a shape that is found twice counts once
    return right / max(sure.sum(), 1), right / (kinds > 0).sum()


def answers(name, objective, training, test, steps, pixels, curved=8):
    """Trains a head by both rules, and judges what it finds in new images.

    Args:
        name: of the head.
        objective: whose model finds classes and something else in cells.
        training: parameters to start from, and examples.
        test: new images, and masks and classes of what is in them.
        steps: of Adam and of K-FAC.
        pixels: makes masks of what the model finds in all cells.
        curved: as in `compared`.

    Returns:
        Precision and recall by rule, and a picture of what is found in eight images.
    """
    (images, masks, kinds), scores = test, {}
    every = images, np.tile(CELLS, (len(images), 1))
    runs = compared(name, objective, *training, steps, curved)
    size = 12, 0.6 + 1.4 * len(runs)
    figure, rows = plt.subplots(len(runs), 8, figsize=size, layout="constrained", squeeze=False)
    for panels, (rule, run) in zip(rows, runs.items(), strict=True):
        outputs = jax.tree.map(np.asarray, objective.outputs(run.params, every))
        logits, found = outputs["classes"], pixels(outputs["found"])
        scores[rule] = score(logits, found, masks, kinds)
        panels[0].set_ylabel("{}\n{:.0%}, {:.0%}".format(rule, *scores[rule]))
        print("{}: precision {:.3f}, recall {:.3f}".format(rule, *scores[rule]))
        for i, axes in enumerate(panels):
            axes.imshow(-images[i, ..., 0], cmap="gray")
            axes.set(xticks=[], yticks=[])
            for cell in np.flatnonzero(logits[i].max(axis=-1) > 0):
                if found[i, cell].any():
                    color = COLORS[1 + logits[i, cell].argmax()]
                    axes.contourf(found[i, cell], [0.5, 1.5], colors=color, alpha=0.55)
            for mask in masks[i][kinds[i] > 0]:
                axes.contour(mask, [0.5], colors="black", linewidths=1.2, linestyles=":")
    return scores, figure
