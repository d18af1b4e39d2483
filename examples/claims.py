"""What lectures claim, measured on 300 digits: the loss, augmentation, dropout, normalization.

uv run examples/claims.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import curvature, data, layers, losses, plots, rules
from fnn.losses import half_squared_error
from fnn.perturbations import augmented
from fnn.problems.problem import accuracy

PICTURE = Path(__file__).parent / "drawn" / "claims.png"
TRAIN, TEST = data.split(data.digits(), (300 / 1797, 1497 / 1797), jax.random.key(0))
PLAIN, DROPOUT, NORMALIZED = (
    layers.serial(layers.dense(50), *more, layers.elementwise(jax.nn.relu), *drop, layers.dense(10))
    for more, drop in (((), ()), ((), (layers.dropout(0.5),)), ((layers.batch_norm(),), ()))
)


def shifted(key, x):
    """A digit that is moved by a pixel at most."""
    return data.shift(key, x.reshape(8, 8)).ravel()


CASES = {  # a network, what is trained in its place, and the loss
    "cross-entropy": (PLAIN, PLAIN.apply, losses.softmax_cross_entropy),
    "squared error": (PLAIN, PLAIN.apply, lambda y, t: half_squared_error(y, jnp.eye(10)[t])),
    "augmentation": (PLAIN, augmented(PLAIN.apply, shifted), losses.softmax_cross_entropy),
    "dropout": (DROPOUT, DROPOUT.apply, losses.softmax_cross_entropy),
    "batch normalization": (NORMALIZED, NORMALIZED.apply, losses.softmax_cross_entropy),
}
MOVED = jax.vmap(shifted)(jax.random.split(jax.random.key(3), len(TEST.inputs)), TEST.inputs)


def trained(name, second, seeds, epochs):
    """Of networks from several seeds: how many of the clean and of the moved digits are right."""
    (network, model, loss), x = CASES[name], TEST.inputs[0]
    params = jax.vmap(network.init, (0, None))(jax.random.split(jax.random.key(1), seeds), x)
    known = curvature.structure(model, network.init(jax.random.key(0), x), x)
    rule = rules.kfac(known, learning_rate=0.03, damping=0.03) if second else rules.adam(0.003)
    plan = {"epochs": epochs, "batch_size": 50, "key": jax.random.key(2)}
    params = fnn.fits(rule, fnn.Objective(model, loss), params, TRAIN, **plan).params

    def right(params):
        params = layers.calibrate(network, params, TRAIN.inputs)
        answers = [jax.vmap(network.apply, (None, 0))(params, x) for x in (TEST.inputs, MOVED)]
        return jnp.array([accuracy(outputs, TEST.targets) for outputs in answers])

    return np.asarray(jax.jit(jax.vmap(right))(params), float)


def main(seeds=8, epochs=60, picture=PICTURE):
    """Draws the picture; returns accuracies on clean and moved digits, by case and rule."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    seen = {}
    for place, name in enumerate(CASES):
        for second in (0, 1)[: 1 + (name != "batch normalization")]:  # which needs the whole batch
            began, rule = time.perf_counter(), ("adam", "K-FAC")[second]
            shares = seen[name, rule] = trained(name, second, seeds, epochs)
            for axes, values in zip(panels, shares.T, strict=True):
                where = place + 0.3 * second + plots.jitter(seeds) / 3
                axes.plot(values, where, "os"[second], color=plots.COLORS[second], alpha=0.6)
            facts = np.round([shares.mean(axis=0), shares.std(axis=0)], 3).tolist()
            print(f"{name:20} {rule:6}{time.perf_counter() - began:5.0f} s", *facts, flush=True)
    panels[0].set(title="share right of other digits", yticks=range(len(CASES)), yticklabels=CASES)
    panels[1].set_title("the same, moved (o: adam, squares: K-FAC)")
    figure.savefig(picture, dpi=80)
    return seen


if __name__ == "__main__":
    main()
