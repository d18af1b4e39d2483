"""SegNet: classify every pixel of drawn shapes, unpooled to where the poolings found their values.

uv run examples/segnet.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from parts import seeing

import fnn
from fnn import data, layers, losses
from fnn.layers import pooled, serial

PICTURE = Path(__file__).parent / "drawn" / "segnet.png"


def conv(features, *then):
    """A convolution, its rectifier, and what follows."""
    return serial(layers.conv(features, (3, 3)), layers.elementwise(jax.nn.relu), *then)


MIDDLE = pooled(conv(12, conv(12)), (2, 2))
MODEL = conv(8, pooled(conv(12, MIDDLE, conv(8)), (2, 2)), layers.conv(4, (3, 3)))


PER_PIXEL = losses.each(losses.each(losses.softmax_cross_entropy))
OBJECTIVE = fnn.Objective(MODEL.apply, PER_PIXEL)


def overlap(answers, labels):
    """Intersection over union of the pixels of each class, the mean of the four."""
    kinds = jnp.arange(4)
    found, truth = answers[..., None] == kinds, labels[..., None] == kinds
    both, either = ((found & truth).sum((0, 1, 2)), (found | truth).sum((0, 1, 2)))
    return float(jnp.mean(both / jnp.maximum(either, 1)))


def main(steps=(1200, 150), size=24, picture=PICTURE):
    """Draws the picture; returns the overlap with the truth on new images, by rule."""
    scenes = [data.shapes(n, size=size, seed=n) for n in (2000, 200)]
    (train, labels), (test, truth) = [(of.inputs.astype("float32"), of.labels) for of in scenes]
    params = MODEL.init(jax.random.key(0), train[0])
    runs = seeing.compared("SegNet", OBJECTIVE, params, (train, labels), steps)
    answers = {rule: OBJECTIVE.outputs(of.params, test).argmax(-1) for rule, of in runs.items()}
    shares = {rule: overlap(answer, truth) for rule, answer in answers.items()}
    print("intersection over union:", ", ".join(f"{r} {share:.3f}" for r, share in shares.items()))
    figure, rows = plt.subplots(2 + len(runs), 9, figsize=(11, 5.2), layout="constrained")
    columns = {"image": -test[..., 0], "truth": truth, **answers}
    for axes, (name, images) in zip(rows, columns.items(), strict=True):
        look = {"vmin": 0, "vmax": 3, "cmap": ListedColormap(seeing.COLORS)}
        for i, panel in enumerate(axes):
            panel.imshow(images[i], **({"cmap": "gray"} if name == "image" else look))
            panel.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name if name not in shares else f"{name}\n{shares[name]:.3f}")
    figure.suptitle("every pixel's class: disks, squares, triangles; overlap of 200 new images")
    figure.savefig(picture, dpi=80)
    return shares


if __name__ == "__main__":
    main()
