"""Generative adversarial networks of a ring and of digits: the modes that each rule covers.

uv run examples/gan.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import curvature, data, layers, losses, plots, rules, training

PICTURE = Path(__file__).parent / "drawn" / "gan.png"
LATENT, BATCH, PENALTY, RELU = jnp.zeros(8), 128, 0.3, layers.elementwise(jax.nn.relu)
LABELS = np.repeat([[1.0], [0.0]], BATCH, axis=0)
CORNERS = np.exp(0.25j * np.pi * np.arange(8)).view(float).reshape(8, 2)


def play(points, rule_of, steps):
    """A thousand samples of the generator after so many steps of both players at once."""
    hidden = layers.dense(64), RELU, layers.dense(64), RELU
    forger, critic = [layers.serial(*hidden, layers.dense(n)) for n in (points.shape[1], 1)]
    keys = jax.random.split(jax.random.key(0), steps + 3)
    p, q = forger.init(keys[0], LATENT), critic.init(keys[1], points[0])
    mine = rule_of(curvature.structure(forger.apply, p, LATENT))
    yours = rule_of(curvature.structure(critic.apply, q, points[0]))
    judged, made = fnn.Objective(critic.apply, losses.logistic), jax.vmap(forger.apply, (None, 0))
    slopes = jax.vmap(jax.grad(lambda x, q: critic.apply(q, x)[0]), (0, None))

    def turn(carry, key):
        p, my_state, q, your_state = carry
        noise = jax.random.normal(key, (BATCH, LATENT.size))
        real = jax.random.choice(jax.random.fold_in(key, 1), points, (BATCH,))
        tax = fnn.penalty(lambda q: PENALTY / 2 * jnp.mean(jnp.sum(slopes(real, q) ** 2, axis=1)))
        truth = judged.on((jnp.concatenate([real, made(p, noise)]), LABELS)) + tax
        fooled = fnn.Objective(lambda p, z: critic.apply(q, forger.apply(p, z)), losses.logistic)
        forged = training.step(mine, my_state, p, fooled.on((noise, LABELS[:BATCH])))[:2]
        return (*forged, *training.step(yours, your_state, q, truth)[:2]), None

    (p, *_), _ = jax.lax.scan(turn, (p, mine.init(p), q, yours.init(q)), keys[3:])
    return made(p, jax.random.normal(keys[2], (1000, LATENT.size)))


def main(first=3000, second=500, picture=PICTURE):
    """Draws the picture; returns by data and rule the samples close to each mode, of 1000."""
    images, digits = data.digits()
    ring = np.random.default_rng(0).normal(np.tile(CORNERS, (500, 1)), 0.05)
    games = {"ring": (ring, CORNERS, np.arange(8), 0.15), "digits": (images, images, digits, 2.0)}
    contest = {
        "adam": (lambda _: rules.adam(optax.linear_schedule(3e-3, 0, first), 0.5), first),
        "kfac held back": (lambda k: rules.kfac(k, 0.02, 0.1, momentum=0.0, examples=32), second),
        "kfac": (lambda k: rules.kfac(k, examples=32), second),
    }
    counts, (figure, panels) = {}, plt.subplots(2, 3, figsize=(10.5, 7), layout="constrained")
    for row, (game, (points, centers, classes, reach)) in zip(panels, games.items(), strict=True):
        for axes, (name, (rule_of, steps)) in zip(row, contest.items(), strict=True):
            began, modes = time.time(), classes.max() + 1
            made = np.asarray(jax.jit(play, static_argnums=(1, 2))(points, rule_of, steps))
            far = np.linalg.norm(made[:, None] - centers, axis=2)
            close = classes[far.argmin(axis=1)][far.min(axis=1) < reach]
            counts[game, name] = np.bincount(close, minlength=modes)
            covered = f"{np.sum(counts[game, name] > 250 / modes)} of {modes} modes"
            print(f"{game}, {name}, {steps} steps, {time.time() - began:.1f} s: {covered}")
            axes.set_title(f"{name}, {steps} steps: {covered}")
            if game == "ring":
                axes.plot(*points.T, "C7.", *made.T, "C1.", markersize=2)
                axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xticks=[], yticks=[])
            else:
                plots.features(axes, made[:80], (8, 8), columns=10)
    figure.savefig(picture, dpi=80)
    return counts


if __name__ == "__main__":
    main()
