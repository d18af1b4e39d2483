"""Generative adversarial networks of a ring and of digits: the modes that each rule covers.

uv run examples/gan.py
"""

import itertools
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
LATENT, BATCH, RELU = jnp.zeros(8), 128, layers.elementwise(jax.nn.relu)
LABELS = np.repeat([[1.0], [0.0]], BATCH, axis=0)
CORNERS = np.exp(0.25j * np.pi * np.arange(8)).view(float).reshape(8, 2)


def play(points, rule_of, steps):
    """A thousand samples of the generator after so many steps of both players at once."""
    hidden = layers.dense(64), RELU, layers.dense(64), RELU
    forger, critic = [layers.serial(*hidden, layers.dense(n)) for n in (points.shape[1], 1)]
    keys = jax.random.split(jax.random.key(0), 4)
    p, q = forger.init(keys[0], LATENT), critic.init(keys[1], points[0])
    mine = rule_of(curvature.structure(forger.apply, p, LATENT))
    yours = rule_of(curvature.structure(critic.apply, q, points[0]))
    judged, made = fnn.Objective(critic.apply, losses.logistic), jax.vmap(forger.apply, (None, 0))

    def turn(carry, key):
        p, my_state, q, your_state = carry
        first, second = jax.random.split(key)  # one key for both would betray the forger
        noise = jax.random.normal(first, (BATCH, LATENT.size))
        both = jnp.concatenate([jax.random.choice(second, points, (BATCH,)), made(p, noise)])
        fooled = fnn.Objective(lambda p, z: critic.apply(q, forger.apply(p, z)), losses.logistic)
        mine_next = training.step(mine, my_state, p, fooled.on((noise, LABELS[:BATCH])))
        yours_next = training.step(yours, your_state, q, judged.on((both, LABELS)))
        return (*mine_next[:2], *yours_next[:2]), None

    start = p, mine.init(p), q, yours.init(q)
    (p, *_), _ = jax.lax.scan(turn, start, jax.random.split(keys[2], steps))
    return made(p, jax.random.normal(keys[3], (1000, LATENT.size)))


def main(first=3000, second=300, picture=PICTURE):
    """Draws the picture; returns by data and rule the samples close to each mode, of 1000."""
    (images, digits), heaps = data.digits(), np.tile(CORNERS, (500, 1))
    ring = heaps + 0.05 * np.random.default_rng(0).normal(size=heaps.shape)
    games = {"ring": (ring, CORNERS, np.arange(8), 0.15), "digits": (images, images, digits, 2.0)}
    adam = rules.adam(optax.linear_schedule(3e-3, 0, first), 0.5)
    contest = {"adam": (lambda _: adam, first), "kfac": (rules.kfac, second)}
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    counts = {}
    for axes, which in zip(panels, itertools.product(games, contest), strict=True):
        (points, centers, classes, reach), (rule_of, steps) = games[which[0]], contest[which[1]]
        began, modes = time.time(), classes.max() + 1
        made = np.asarray(jax.jit(play, static_argnums=(1, 2))(points, rule_of, steps))
        far = np.linalg.norm(made[:, None] - centers, axis=2)
        close = classes[far.argmin(axis=1)][far.min(axis=1) < reach]
        counts[which] = np.bincount(close, minlength=modes)
        covered = f"{np.sum(counts[which] > 250 / modes)} of {modes} modes"
        print(*which, f"{steps} steps, {time.time() - began:.1f} s: {covered}, {len(close)} close")
        axes.set_title(f"{which[1]}, {steps} steps: {covered}")
        if len(centers) == modes:
            axes.plot(*points.T, ".", color="0.85")
            axes.plot(*made.T, ".", color=plots.COLORS[1], markersize=2)
            axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xticks=[], yticks=[])
        else:
            plots.features(axes, made[:100], (8, 8), columns=10)
    figure.savefig(picture, dpi=80)
    return counts


if __name__ == "__main__":
    main()
