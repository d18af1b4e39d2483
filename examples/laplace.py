"""Error bars of a network, and how much of it the data determine.

uv run examples/laplace.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import fnn
from fnn import curvature, layers, losses, rules

NOISE = 0.1
PICTURE = Path(__file__).parent / "drawn" / "laplace.png"


def truth(x):
    """What the network is to find."""
    return jnp.sin(2 * jnp.pi * x)


def main(steps: int = 300, picture: Path = PICTURE) -> float:
    """Fits a noisy sine with a hole in the data; returns how much of the truth is in the band."""
    where, noise, weights = jax.random.split(jax.random.key(3), 3)
    inputs = jnp.sort(jax.random.uniform(where, (40,), minval=-1.0, maxval=0.7))
    inputs = inputs[(inputs < -0.4) | (inputs > -0.05)][:, None]
    targets = truth(inputs) + NOISE * jax.random.normal(noise, inputs.shape)
    model = layers.serial(layers.dense(20), layers.elementwise(jnp.tanh), layers.dense(1))
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    start = model.init(weights, inputs[0])

    data = inputs, targets
    plain = fnn.fit(rules.levenberg_marquardt(), objective, start, data, steps=steps)
    rule = rules.bayesian_levenberg_marquardt()
    params, state, *_ = fnn.fit(rule, objective, start, data, steps=steps)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"The data determine {state.gamma:.1f} of {size} parameters.")
    print(
        f"Noise: {state.beta**-0.5:.3f}, in truth {NOISE}. Evidence: exp({state.log_evidence:.1f})"
    )

    @jax.jit
    def predict(params, alpha, beta, inputs):
        return curvature.laplace(objective.on(data), params, alpha, beta).predict(inputs)

    x = jnp.linspace(-1.1, 0.9, 400)[:, None]
    outputs, variance, rest, _ = predict(params, state.alpha, state.beta, x)
    bar = 1.96 * jnp.sqrt(variance)
    inside = float(jnp.mean(jnp.abs(truth(x) - outputs) <= bar))

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    flat, y, wide = x[:, 0], outputs[:, 0], 1.96 * jnp.sqrt(variance + rest)[:, 0]
    axes.fill_between(
        flat, y - wide, y + wide, color="C0", alpha=0.15, lw=0, label="95 % of targets"
    )
    axes.fill_between(
        flat, y - bar[:, 0], y + bar[:, 0], color="C0", alpha=0.3, lw=0, label="95 % for the curve"
    )
    axes.plot(flat, objective.outputs(plain.params, x), "C1", lw=1, label="Levenberg-Marquardt")
    axes.plot(flat, y, "C0", label="Bayesian Levenberg-Marquardt")
    axes.plot(flat, truth(flat), "k--", lw=1, label="truth")
    axes.plot(*data, "ko", ms=4, label="data")
    axes.set(xlim=(-1.1, 0.9), ylim=(-2.4, 2.4), xlabel="x", ylabel="outputs")
    axes.set_title(
        f"{len(inputs)} points determine {state.gamma:.1f} of {size} parameters", loc="left"
    )
    axes.legend(ncols=3, loc="upper center", frameon=False)
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return inside


if __name__ == "__main__":
    print(f"{main():.0%} of the truth is in the band.")
