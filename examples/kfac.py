"""Train a deep autoencoder with K-FAC and EKFAC, and look at what their small factors stand for.

uv run examples/kfac.py
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import curvature, data, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "kfac.png"
HIDDEN = [(layers.dense(n), layers.elementwise(jnp.tanh)) for n in (32, 16, 8, 16, 32)]
MODEL = layers.serial(*itertools.chain(*HIDDEN), layers.dense(64))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.half_squared_error)
LEAF = 6, "weight"  # from 8 to 16 features, small enough to write its block down


def block(value_fn, params, known):
    """In the eigenvectors of a leaf's factors: its exact block, and what the two take it for."""
    layer, name = LEAF
    made, path = curvature.kronecker_blocks(value_fn, params, known), f"[{layer}]['{name}']"
    (inputs, outputs), bases = zip(*map(jnp.linalg.eigh, made.factors[path]), strict=True)
    kfac = (inputs[0][:, None] * outputs[0]).ravel()
    ekfac = made.moments({path: curvature.Factors(*bases)})[path].ravel()
    frozen = jax.tree.map_with_path(lambda p, _: jax.tree_util.keystr(p) != path, params)
    free = jax.tree.map(lambda p, held: None if held else p, params, frozen)
    system = curvature.gauss_newton_system(value_fn.freeze(params, frozen), free).system
    turn = jnp.kron(*(basis[0] for basis in bases))
    return turn.T @ system.normal() @ turn, kfac, ekfac


def draw(curves, exact, approximations):
    """Loss against steps, and the eigenvalues of the block and of what stands for it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for i, (name, (steps, values)) in enumerate(curves.items()):
        color, dash, _ = plots.style(i)
        left.plot(steps, values, label=name, color=color, dashes=dash)
    left.set(yscale="log", xlabel="steps of 256 digits", ylabel="loss of all digits")
    left.set_yticks([0.5, 1, 2, 3], ["0.5", "1", "2", "3"])
    left.set_yticks([], minor=True)
    left.set_title("an autoencoder, 64-32-16-8-16-32-64")
    right.plot(np.linalg.eigvalsh(exact)[::-1], color="black", label="exact")
    for i, (name, values) in enumerate(approximations.items(), start=2):
        off = np.linalg.norm(exact - np.diag(values)) / np.linalg.norm(exact)
        color, dash, _ = plots.style(i)
        style = {"color": color, "dashes": dash, "linewidth": 2}
        right.plot(np.sort(values)[::-1], label=f"{name}, {off:.1%} away", **style)
    right.set(yscale="log", xlabel="largest first", ylabel="eigenvalues of the curvature")
    right.set_title("middle layer, from 8 x 8 and 16 x 16 numbers")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def main(epochs=60, picture=PICTURE):
    """Draws the picture; returns the last losses, and the diagonals beside the exact block."""
    inputs = data.digits().inputs
    params = MODEL.init(jax.random.key(0), inputs[0])
    known = curvature.structure(MODEL.apply, params, inputs[0])
    runners = rules.momentum(0.01), rules.adam(0.01), rules.kfac(known), rules.ekfac(known)
    value_fn, plan = OBJECTIVE.on((inputs, inputs)), {"epochs": epochs, "batch_size": 256}
    curves, run = {}, None
    for name, rule in zip(("momentum", "adam", "kfac", "ekfac"), runners, strict=True):
        plan |= {"key": jax.random.key(1), "validation": (inputs, inputs)}
        run = fnn.fit(rule, OBJECTIVE, params, (inputs, inputs), **plan)
        curves[name] = run.history.steps, run.history.validation["loss"]
    exact, kfac, ekfac = jax.jit(block, static_argnums=2)(value_fn, run.params, known)
    draw(curves, exact, {"kfac": kfac, "ekfac": ekfac}).savefig(picture, dpi=80)
    return {name: values[-1] for name, (_, values) in curves.items()}, exact, kfac, ekfac


if __name__ == "__main__":
    print(main()[0])
