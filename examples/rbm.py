"""A restricted Boltzmann machine of digits: contrastive divergence, filters, free energies.

uv run examples/rbm.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from fnn import boltzmann, data, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "rbm.png"


def digits():
    """Pixels that are 0 or 1 of training and held-out digits, and random ones as often on."""
    inputs = jnp.asarray(data.digits().inputs > 0.4, float)
    train, test = inputs[:1437], inputs[1437:]
    noise = jax.random.bernoulli(jax.random.key(2), train.mean(axis=0), test.shape).astype(float)
    return {"training digits": train, "held-out digits": test, "random pixels": noise}


def tiles(axes, images, columns, title, colors, lowest, highest):
    """Images of 8 x 8 pixels side by side, with gaps."""
    padded = np.pad(np.reshape(images, (-1, columns, 8, 8)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    sheet = padded.swapaxes(1, 2).reshape(-1, 10 * columns)
    axes.imshow(sheet, cmap=colors, vmin=lowest, vmax=highest)
    axes.set(xticks=[], yticks=[], frame_on=False, title=title)


def draw(machine, test, errors, energies):
    """Filters, digits and what comes back of them, free energies by epoch."""
    plan = {"layout": "constrained", "width_ratios": (1, 0.75, 1.3)}
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), **plan)
    title = "weights of the hidden units,\nfrom -3 (blue) to 3 (red)"
    strongest = jnp.argsort(-jnp.linalg.norm(machine.weights, axis=0))[:64]
    tiles(axes[0], machine.weights.T[strongest], 8, title, "RdBu_r", -3, 3)
    back = boltzmann.downwards(machine, boltzmann.upwards(machine, test[:24]))
    pairs = jnp.stack([test[:24], back], axis=1)
    title = f"held-out digits, and what comes back\nsquared error of a pixel {errors[-1]:.3f}"
    tiles(axes[1], pairs, 6, title, "gray_r", 0, 1)
    for i, (name, values) in enumerate(energies.items()):
        color, dash, _ = plots.style(i)
        axes[2].plot(values, color=color, dashes=dash, label=name)
    axes[2].set(xlabel="epochs", ylabel="mean free energy")
    axes[2].set_title("lower for digits, held out or not, than for random pixels")
    axes[2].spines[["top", "right"]].set_visible(False)
    axes[2].legend(frameon=False)
    return figure


def main(epochs=100, hidden=64, picture=PICTURE):
    """Draws the picture; returns errors of held-out digits and free energies by epoch."""
    sets = digits()
    train, test, _ = sets.values()

    def watch(machine):
        energies = {name: boltzmann.free_energy(machine, v).mean() for name, v in sets.items()}
        back = boltzmann.downwards(machine, boltzmann.upwards(machine, test))
        return jnp.mean((back - test) ** 2), energies

    start, began = boltzmann.init(jax.random.key(0), train, hidden), time.perf_counter()
    plan = {"epochs": epochs, "key": jax.random.key(1), "watch": watch}
    machine, seen = boltzmann.train(rules.sgd(0.1), start, train, **plan)
    errors, energies = jax.block_until_ready(seen)
    seconds, energies = time.perf_counter() - began, {name: energies[name] for name in sets}
    fact = ", ".join(f"{name} {values[-1]:.1f}" for name, values in energies.items())
    print(f"64 x {hidden}, {optax.tree.size(start)} parameters, CD-1, no loss: {seconds:.1f} s")
    print(f"{71 * epochs} steps, error {errors[-1]:.3f}; mean free energy of {fact}")
    draw(machine, test, errors, energies).savefig(picture, dpi=80)
    return errors, energies


if __name__ == "__main__":
    main()
