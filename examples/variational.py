"""A variational autoencoder of digits: its plane, what it makes up, and the parts of its bound.

uv run examples/variational.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import curvature, data, layers, plots, problems, rules

PICTURE = Path(__file__).parent / "drawn" / "variational.png"
TANH = layers.elementwise(jnp.tanh)
ENCODER = layers.serial(layers.dense(64), TANH, layers.dense(2 * 2))
DECODER = layers.serial(layers.dense(64), TANH, layers.dense(64))
MODEL = problems.variational(ENCODER, DECODER)
OBJECTIVE = fnn.Objective(MODEL.apply, problems.negative_evidence_bound)


@jax.jit
def parts(params, images):
    """Means over images: what reconstruction loses, the divergence, and -log p(image)."""
    mean, log_variance = jnp.split(jax.vmap(ENCODER.apply, (None, 0))(params[0], images), 2, axis=1)
    noise, side = (
        jax.random.normal(jax.random.key(0), (64, *mean.shape)),
        jnp.linspace(-4.5, 4.5, 91),
    )
    plane = jnp.stack(jnp.meshgrid(side, side), axis=2).reshape(-1, 2)
    decode = jnp.vectorize(lambda z: DECODER.apply(params[1], z), signature="(k)->(n)")
    logits, everywhere = decode(mean + jnp.exp(log_variance / 2) * noise), decode(plane)
    lost = jnp.sum(jax.nn.softplus(logits) - logits * images, axis=2)
    log_prior = -jnp.sum(plane**2, axis=1) / 2 + jnp.log((side[1] - side[0]) ** 2 / (2 * jnp.pi))
    log_joint = images @ everywhere.T - jnp.sum(jax.nn.softplus(everywhere), axis=1) + log_prior
    divergence = jax.vmap(problems.gaussian_divergence)(mean, log_variance)
    return lost.mean(), divergence.mean(), -jax.nn.logsumexp(log_joint, axis=1).mean()


def main(epochs=100, picture=PICTURE):
    """Draws the picture; returns by rule the parts of the bound on new digits, and -log p."""
    (images, _), (unseen, digits) = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    noise = np.random.default_rng(0).normal(size=(len(images), 2))
    start = MODEL.init(jax.random.key(1), (images[0], noise[0]))
    known = curvature.structure(MODEL.apply, start, (images[0], noise[0]))
    plan = {"epochs": epochs, "batch_size": 128, "key": jax.random.key(2)}
    plan["validation"] = (unseen, noise[: len(unseen)]), unseen
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
    print("rule  parameters steps seconds  nats lost + divergence, -log p of new digits")
    found, contest = {}, {"adam": rules.adam(1e-2), "ekfac": rules.ekfac(known, samples=1)}
    for i, (name, rule) in enumerate(contest.items()):
        began = time.time()
        run = fnn.fit(rule, OBJECTIVE, start, ((images, noise), images), **plan)
        counts = (
            f"{optax.tree.size(start):10} {len(run.history.value):5} {time.time() - began:7.1f}"
        )
        lost, divergence, least = found[name] = [float(part) for part in parts(run.params, unseen)]
        print(f"{name:5} {counts}  {lost:.2f} + {divergence:.2f}, {least:.2f}")
        look = {"color": plots.style(i).color, "dashes": plots.style(i).dash}
        panels[2].plot(run.history.validation["loss"], label=name, **look)
        panels[2].axhline(least, linewidth=0.8, **look)
    panels[2].set(xlabel="epochs", ylabel="nats per new digit", ylim=(23, 28))
    panels[2].set_title("the bound, and what it bounds: -log p")
    panels[2].legend(frameon=False)
    plots.codes(panels[0], jax.vmap(ENCODER.apply, (None, 0))(run.params[0], unseen)[:, :2], digits)
    panels[0].set(title="new digits in the plane", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    places = np.stack(np.meshgrid(np.linspace(-2, 2, 12), np.linspace(2, -2, 12)), axis=2)
    logits = jax.vmap(DECODER.apply, (None, 0))(run.params[1], places.reshape(-1, 2))
    plots.features(panels[1], jax.nn.sigmoid(logits), (8, 8), columns=12)
    panels[1].set_title("what the plane decodes to, from -2 to 2")
    figure.savefig(picture, dpi=80)
    return found


if __name__ == "__main__":
    main()
