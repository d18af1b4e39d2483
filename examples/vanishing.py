"""Watch gradients vanish: by layer, against activation and depth, and by time step.

uv run examples/vanishing.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import data, diagnostics, initializers, layers, losses, plots

PICTURE = Path(__file__).parent / "drawn" / "vanishing.png"
WIDTH = 64


def network(depth, activation, weight, skip=False):
    """Dense layers with an activation, perhaps with shortcuts, and a classifier on top."""
    piece = layers.serial(layers.dense(WIDTH, weight=weight), layers.elementwise(activation))
    return layers.serial(*[layers.residual(piece) if skip else piece] * depth, layers.dense(10))


NETWORKS = {
    "logistic": (jax.nn.sigmoid, initializers.glorot_gaussian()),
    "tanh": (jnp.tanh, initializers.glorot_gaussian()),
    "ReLU, variance 1/n": (jax.nn.relu, initializers.lecun_gaussian()),
    "ReLU, variance 2/n": (jax.nn.relu, initializers.he_gaussian()),
    "tanh, variance 4/n": (jnp.tanh, jax.nn.initializers.variance_scaling(4, "fan_in", "normal")),
    "logistic, shortcuts": (jax.nn.sigmoid, initializers.glorot_gaussian(), True),
}
orthogonal = jax.nn.initializers.orthogonal
CELLS = {
    "Elman, half of orthogonal": layers.elman(32, recurrent=orthogonal(0.5)),
    "Elman, 3/2 of orthogonal": layers.elman(32, recurrent=orthogonal(1.5), activation=lambda h: h),
    "GRU": layers.gru(32),
    "LSTM": layers.lstm(32),
}


def by_layer(depth, activation, weight, skip=False):
    """The norm of the gradient in each layer's parameters, on digits."""
    model, batch = network(depth, activation, weight, skip), [a[:200] for a in data.digits()]
    params = model.init(jax.random.key(0), batch[0][0])
    look = jax.jit(diagnostics.signals, static_argnums=(0, 1))
    found = look(model, losses.softmax_cross_entropy, params, batch)
    return np.array([signal.grad for name, signal in found.items() if "dense" in name][:depth])


def by_step(cell, steps):
    """The norm of the gradient of the last output in the input of each time step."""
    x = jax.random.normal(jax.random.key(0), (steps, 8))
    layer = layers.scan_over(cell)
    params = layer.init(jax.random.key(1), x)
    return np.linalg.norm(jax.grad(lambda x: jnp.sum(layer.apply(params, x)[-1]))(x), axis=1)


def main(depth=20, steps=40, picture=PICTURE):
    """Draws the picture; returns the norms by layer and by time step."""
    layer_norms = {name: by_layer(depth, *what) for name, what in NETWORKS.items()}
    step_norms = {name: by_step(cell, steps) for name, cell in CELLS.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for axes, curves in ((left, layer_norms), (right, step_norms)):
        for i, (name, norms) in enumerate(curves.items()):
            color, dash, _ = plots.style(i)
            axes.plot(np.arange(1, len(norms) + 1), norms, color=color, dashes=dash, label=name)
        axes.set(yscale="log", ylabel="norm of the gradient")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="layer, from the inputs on", title="deep networks of digits, at their start")
    right.set(xlabel="time step, the loss at the last", title="recurrent networks, at their start")
    figure.savefig(picture, dpi=80)
    return layer_norms, step_norms


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
