"""YOLO in small: in one look the classes and the boxes of all shapes of an image.

uv run examples/yolo.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from parts import seeing

import fnn
from fnn import data, layers, losses

PICTURE = Path(__file__).parent / "drawn" / "yolo.png"
MIDDLES = np.tile(np.stack(np.divmod(seeing.CELLS, 6), -1) + 0.5, 2)
HEAD = layers.serial(seeing.BACKBONE, layers.parallel(layers.serial(), layers.conv(7, (1, 1))))


def model(params, x):
    """By cell the logits of three classes; of the cells asked for the sides of a box."""
    answers = HEAD.apply(params, x[0])[1].reshape(-1, 7)
    return {"classes": answers[:, :3], "found": answers[x[1], 3:]}


def loss(outputs, target):
    """Cross-entropy of what is in each cell; squares of the sides, where something is."""
    classes, sides, there = target
    off = jnp.sum((outputs["found"] - sides) ** 2, axis=-1)
    return losses.logistic(outputs["classes"], classes) + jnp.sum(there * off)


OBJECTIVE = fnn.Objective(model, losses.separable(loss, complete=True))


def asked(scenes):
    """Images and cells of the shapes; classes by cell, sides from its middle, who is there."""
    place, kinds = scenes.cells(6)
    targets = np.eye(4)[kinds][..., 1:], scenes.boxes / 4 - MIDDLES[place], scenes.classes > 0
    inputs = scenes.inputs.astype("float32"), place
    return inputs, tuple(target.astype("float32") for target in targets)


def filled(boxes):
    """The pixels whose middles are in a box."""
    at, (top, left, bottom, right) = np.arange(24) + 0.5, np.moveaxis(boxes, -1, 0)[..., None]
    rows, columns = (top <= at) & (at < bottom), (left <= at) & (at < right)
    return rows[..., None] & columns[..., None, :]


def pixels(sides):
    """The pixels in the boxes that the cells have found."""
    return filled(4 * (sides + MIDDLES))


def main(steps=(1000, 200), picture=PICTURE):
    """Draws the picture; returns precision and recall of boxes in 200 new images, by rule."""
    examples, test = asked(data.shapes(2000)), data.shapes(200, seed=1)
    training = HEAD.init(jax.random.key(0), examples[0][0][0]), examples
    truth = test.inputs.astype("float32"), filled(test.boxes), test.classes
    scores, figure = seeing.answers("YOLO", OBJECTIVE, training, truth, steps, pixels)
    figure.suptitle("boxes of disks, squares and triangles, and the true ones; precision, recall")
    figure.savefig(picture, dpi=80)
    return scores


if __name__ == "__main__":
    main()
