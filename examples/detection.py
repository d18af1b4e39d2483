"""One backbone with two heads: YOLO's finds boxes of drawn shapes, SOLO's their masks.

uv run examples/detection.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import fnn
from fnn import curvature, data, layers, losses, plots, rules
from fnn.layers import max_pool, serial

PICTURE = Path(__file__).parent / "drawn" / "detection.png"
GRID, CELL = 6, 4  # cells along rows and columns, and pixels along a cell


def conv(features):
    """A convolution and its rectifier."""
    return serial(layers.conv(features, (3, 3)), layers.elementwise(jax.nn.relu))


FINE = serial(conv(8), max_pool((2, 2)), conv(16))
BACKBONE = serial(FINE, layers.fan_out(serial(), serial(max_pool((2, 2)), conv(24))))
YOLO = serial(BACKBONE, layers.parallel(serial(), layers.conv(3 + 4, (1, 1))))
SOLO = serial(BACKBONE, layers.parallel(conv(12), layers.conv(3 + 12, (1, 1))))


def yolo(params, x):
    """In each cell the logits of three classes, and a box: middle and logarithm of the size."""
    coarse = YOLO.apply(params, x[0])[1].reshape(GRID**2, 7)
    return {"classes": coarse[:, :3], "boxes": coarse[x[1], 3:]}


def solo(params, x):
    """In each cell the logits of three classes; of the cells asked for, those of its mask."""
    fine, coarse = SOLO.apply(params, x[0])
    kernels = coarse.reshape(GRID**2, 15)[x[1], 3:]
    return {
        "classes": coarse[..., :3].reshape(-1, 3),
        "masks": jnp.einsum("rce,ke->krc", fine, kernels),
    }
