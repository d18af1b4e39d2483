"""SOLO in small: YOLO's backbone with a head that draws a mask of every shape.

uv run examples/solo.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from parts import seeing

import fnn
from fnn import data, layers, losses

PICTURE = Path(__file__).parent / "drawn" / "solo.png"
PLACES = np.stack(np.mgrid[-1:1:12j, -1:1:12j], -1)  # a mask must know where it is drawn
FEATURES, KERNELS = seeing.conv(12), layers.conv(3 + 12, (1, 1))


def init(key, image):
    """Parameters of the backbone, of the features of masks, and of the cells' answers."""
    keys, backbone = jax.random.split(key, 3), seeing.BACKBONE
    params = backbone.init(keys[0], image)
    fine, coarse = jax.eval_shape(backbone.apply, params, image)
    fine = jax.ShapeDtypeStruct((12, 12, fine.shape[-1] + 2), fine.dtype)
    return params, FEATURES.init(keys[1], fine), KERNELS.init(keys[2], coarse)


def model(params, x):
    """By cell the logits of three classes; of the cells asked for those of a mask's pixels."""
    (image, cells), (backbone, features, kernels) = x, params
    fine, coarse = seeing.BACKBONE.apply(backbone, image)
    fine = jnp.concatenate([fine, PLACES.astype(fine.dtype)], axis=-1)
    answers = KERNELS.apply(kernels, coarse).reshape(36, 3 + 12)
    masks = jnp.einsum("rcf,kf->krc", FEATURES.apply(features, fine), answers[cells, 3:])
    return {"classes": answers[:, :3], "found": masks}


def loss(outputs, target):
    """Cross-entropy of what is in each cell, and of the pixels of its mask, 10 times their mean."""
    classes, masks, there = target
    found = outputs["found"]
    pixels = masks * jax.nn.softplus(-found) + (1 - masks) * jax.nn.softplus(found)
    named = losses.logistic(outputs["classes"], classes)
    return named + 10 * jnp.sum(there * jnp.mean(pixels, axis=(1, 2)))


OBJECTIVE = fnn.Objective(model, losses.separable(loss, complete=True))


def asked(scenes):
    """Images and cells of the shapes; classes by cell, masks of half the size, who is there."""
    (place, kinds), there = scenes.cells(6), scenes.classes > 0
    halves = scenes.masks.reshape(*there.shape, 12, 2, 12, 2).mean((3, 5))
    targets = np.eye(4)[kinds][..., 1:], halves, there
    inputs = scenes.inputs.astype("float32"), place
    return inputs, tuple(target.astype("float32") for target in targets)


def pixels(found):
    """The pixels of masks of half the size, straight lines between their middles."""
    return np.asarray(jax.image.resize(found, (*found.shape[:2], 24, 24), "linear") > 0)


def main(steps=(800, 240), picture=PICTURE):
    """Draws the picture; returns precision and recall of masks in 200 new images, by rule."""
    examples, test = asked(data.shapes(2000)), data.shapes(200, seed=1)
    training = init(jax.random.key(0), examples[0][0][0]), examples
    truth = test.inputs.astype("float32"), test.masks, test.classes
    scores, figure = seeing.answers("SOLO", OBJECTIVE, training, truth, steps, pixels, None)
    figure.suptitle("masks of disks, squares and triangles, and the true ones; precision, recall")
    figure.savefig(picture, dpi=80)
    return scores


if __name__ == "__main__":
    main()
