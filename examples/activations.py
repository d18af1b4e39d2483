"""Activations and their derivatives, drawn, and the derivatives checked against differences.

uv run examples/activations.py
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import activations, plots

PICTURE = Path(__file__).parent / "drawn" / "activations.png"
X = np.linspace(-3, 3, 602)  # with all kinks and jumps between two points
# At 0, where courses differ, our thresholds fire: both steps are 1 there, and never 0 or 1/2.
FAMILIES = {
    "thresholds: 1 at 0": {
        "unipolar_step": activations.unipolar_step,
        "bipolar_step": activations.bipolar_step,
    },
    "saturating": {
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
        "hard_tanh": jax.nn.hard_tanh,
        "gudermannian": activations.gudermannian,
    },
    "rectifying": {
        "relu": jax.nn.relu,
        "slope 0.1 below 0": functools.partial(activations.parametric_relu, slope=0.1),
        "absolute_value": activations.absolute_value,
    },
    "smoothly rectifying": {
        "softplus": jax.nn.softplus,
        "swish": activations.swish,
        "gelu": jax.nn.gelu,
    },
}


@functools.partial(jax.jit, static_argnums=0)
def slopes(f, x):
    """The derivative at each point, by jax.grad and by central differences."""
    h = 1e-5
    return jax.vmap(jax.grad(f))(x), (f(x + h) - f(x - h)) / (2 * h)


def main(picture=PICTURE):
    """Draws the picture; returns how far derivatives and differences are apart, by name."""
    figure, panels = plt.subplots(2, 4, figsize=(13, 5), layout="constrained", sharex=True)
    apart = {}
    for (above, below), (title, family) in zip(panels.T, FAMILIES.items(), strict=True):
        for i, (name, f) in enumerate(family.items()):
            color, dash, _ = plots.style(i)
            derivative, differences = slopes(f, jnp.asarray(X))
            apart[name] = float(jnp.abs(derivative - differences).max())
            for axes, y in ((above, f(X)), (below, derivative)):
                y = np.where(np.abs(np.diff(y, append=y[-1])) > 0.5, np.nan, y)  # gaps at jumps
                axes.plot(X, y, color=color, dashes=dash, label=name)
            if "thresholds" in title:
                above.plot(0, f(0.0), "o", color=color)
        above.set_title(title)
        above.legend(frameon=False, fontsize=8, loc="lower right")
        above.set_ylim(-1.7, 3.1 if "rect" in title else 1.7)
        below.set(xlabel="net input", ylim=(-1.3, 1.3))
    panels[0, 0].set_ylabel("activation")
    panels[1, 0].set_ylabel("derivative")
    figure.savefig(picture, dpi=80)
    return apart


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for name, distance in main().items():
        print(f"{name:20} derivative and central differences at most {distance:.0e} apart")
