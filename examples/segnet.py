"""SegNet: classify every pixel of drawn shapes, unpooled to where the poolings found their values.

uv run examples/segnet.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import ListedColormap

import fnn
from fnn import curvature, data, layers, losses, plots, rules
from fnn.layers import pooled, serial

PICTURE = Path(__file__).parent / "drawn" / "segnet.png"
CLASSES = ListedColormap(["#f4f4f4", *(plots.style(i).color for i in range(3))])


def conv(features, *inner):
    """A convolution, its rectifier, and what follows."""
    return serial(layers.conv(features, (3, 3)), layers.elementwise(jax.nn.relu), *inner)


MIDDLE = pooled(conv(12, conv(12)), (2, 2))
MODEL = conv(8, pooled(conv(12, MIDDLE, conv(8)), (2, 2)), layers.conv(4, (3, 3)))


def factor(outputs, labels):
    """The curvature of `per_pixel`: a block for each pixel, on the diagonal."""
    softmax = jax.vmap(losses.curvature(losses.softmax_cross_entropy))
    blocks, slopes = softmax(outputs.reshape(-1, 4), labels.ravel())
    n = len(blocks)
    columns = jnp.einsum("nij,nm->nimj", blocks, jnp.eye(n, dtype=blocks.dtype))
    return columns.reshape(4 * n, 4 * n) / jnp.sqrt(n), slopes.ravel() / jnp.sqrt(n)


def per_pixel(outputs, labels):
    """The mean of the pixels' cross-entropies."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[..., None], axis=-1)
    return -jnp.mean(chosen)


OBJECTIVE = fnn.Objective(MODEL.apply, losses.with_curvature(per_pixel, factor, complete=True))


def overlap(outputs, labels):
    """Intersection over union of the pixels of each class, the mean of the classes."""
    found = outputs.argmax(axis=-1)[..., None] == jnp.arange(4)
    truth = labels[..., None] == jnp.arange(4)
    both, either = jnp.sum(found & truth, (0, 1, 2)), jnp.sum(found | truth, (0, 1, 2))
    return jnp.mean(both / jnp.maximum(either, 1))


def main(steps=(800, 120), size=24, picture=PICTURE):
    """Draws the picture; returns the overlap on new images, by rule."""
    train, test = data.shapes(2000, size=size), data.shapes(200, size=size, seed=1)
    params = MODEL.init(jax.random.key(0), train.inputs[0].astype("float32"))
    known = curvature.structure(MODEL.apply, params, train.inputs[0].astype("float32"))
    decay = optax.cosine_decay_schedule(0.01, steps[0])
    runners = {"Adam": rules.adam(decay), "K-FAC": rules.kfac(known, samples=1, examples=8)}
    print(f"SegNet, {optax.tree.size(params):,} parameters")
    runs, outputs = {}, jax.jit(jax.vmap(MODEL.apply, (None, 0)))
    pairs = [(of.inputs.astype("float32"), of.labels) for of in (train, test)]
    for (name, rule), most in zip(runners.items(), steps, strict=True):
        plan = {"batch_size": 32, "key": jax.random.key(1)}
        fnn.fit(rule, OBJECTIVE, params, pairs[0], steps=1, **plan)  # compiles
        began = time.perf_counter()
        run = fnn.fit(rule, OBJECTIVE, params, pairs[0], steps=most, **plan)
        seconds, answers = time.perf_counter() - began, outputs(run.params, pairs[1][0])
        runs[name] = run.history.value, answers, float(overlap(answers, pairs[1][1]))
        print(f"{name:6} {most:5} steps {seconds:6.1f} s, overlap {runs[name][-1]:.3f}")
    draw(test, runs).savefig(picture, dpi=80)
    return {name: share for name, (*_, share) in runs.items()}


if __name__ == "__main__":
    main()
