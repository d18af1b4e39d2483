"""YOLO in small: in one look, the classes and the boxes of all shapes of an image.

uv run examples/yolo.py
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
from fnn.layers import max_pool, serial

PICTURE = Path(__file__).parent / "drawn" / "yolo.png"
GRID = 6  # cells along an image
MIDDLES = np.stack(np.mgrid[:GRID, :GRID], -1).reshape(-1, 2) + 0.5  # in cells


def conv(features):
    """A convolution and its rectifier."""
    return serial(layers.conv(features, (3, 3)), layers.elementwise(jax.nn.relu))


COARSE = serial(max_pool((2, 2)), conv(24))  # fine and coarse features are what heads look at
BACKBONE = serial(conv(8), max_pool((2, 2)), conv(16), layers.fan_out(serial(), COARSE))
HEAD = serial(BACKBONE, layers.parallel(serial(), layers.conv(7, (1, 1))))


def yolo(params, x):
    """Each cell's logits of three classes, and of the cells asked for the sides of a box."""
    answers = HEAD.apply(params, x[0])[1].reshape(-1, 7)
    return {"classes": answers[:, :3], "found": answers[x[1], 3:]}


def prepared(scenes):
    """Images with pixels' coordinates, cells of the shapes; classes, sides of boxes, who is there."""
    n, size = scenes.inputs.shape[:2]
    sides = scenes.boxes * GRID / size
    cells = ((sides[..., :2] + sides[..., 2:]) / 2).astype(np.int32) @ np.array([GRID, 1])
    there = scenes.classes > 0
    classes = np.zeros((n, GRID**2, 3), "float32")
    np.add.at(classes, (np.arange(n)[:, None], cells, scenes.classes - 1), there)
    places = np.broadcast_to(
        np.stack(np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j], -1), (n, size, size, 2)
    )
    images = np.concatenate([scenes.inputs, places], -1).astype("float32")
    sides = (sides - np.tile(MIDDLES[cells], 2)).astype("float32")
    return (images, cells), (classes, sides, there.astype("float32"))


def loss(outputs, target):
    """Cross-entropy of what is in each cell, and squares where there is something."""
    classes, sides, there = target
    off = jnp.sum((outputs["found"] - sides) ** 2, axis=-1)
    return losses.logistic(outputs["classes"], classes) + jnp.sum(there * off)


def overlaps(a, b):
    """Intersection over union of boxes, by their corners."""
    low, high = np.maximum(a, b)[..., :2], np.minimum(a, b)[..., 2:]
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    return both / (sum(np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b)) - both)


def score(logits, overlap, classes):
    """Of what is found the share that is right, and of what is there the share that is found."""
    found = logits.max(axis=-1) > 0
    same = 1 + logits.argmax(axis=-1)[..., None] == classes[:, None]
    right = np.any(found[..., None] & same & (overlap > 0.5), axis=1).sum()
    return right / max(found.sum(), 1), right / np.sum(classes > 0)
