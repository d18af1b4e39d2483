"""An inverse problem: how fast heat spreads, from a few noisy thermometers.

uv run examples/inverse.py
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import layers, rules
from fnn.differential import derivative

PICTURE = Path(__file__).parent / "drawn" / "inverse.png"
MODEL = layers.serial(layers.dense(20), layers.elementwise(jnp.tanh), layers.dense(1))
SPREAD, NOISE = 0.1, 0.01


def truth(point):
    """A solution of u_t = SPREAD u_xx."""
    return jnp.exp(-(jnp.pi**2) * SPREAD * point[..., 0]) * jnp.sin(jnp.pi * point[..., 1])


def equation(params, point):
    """The residual; the coefficient is a parameter as the weights are, by its logarithm."""
    u = functools.partial(MODEL.apply, params["network"])
    return derivative(u, 0)(point) - jnp.exp(params["log_spread"]) * derivative(u, 1, 1)(point)


def thermometer(params, example):
    """What the network says of a measurement (t, x, temperature), less the temperature."""
    return MODEL.apply(params["network"], example[:2])[0] - example[2]


def main(steps: int = 300, picture: Path = PICTURE) -> float:
    """Learns the coefficient from 60 measurements; returns it."""
    rng = np.random.default_rng(0)
    inside = jnp.asarray(rng.uniform(size=(400, 2)))
    places = jnp.stack([*np.meshgrid(np.linspace(0, 1, 12), np.linspace(0.1, 0.9, 5))], -1)
    places = places.reshape(-1, 2)
    seen = truth(places) + NOISE * jnp.asarray(rng.standard_normal(len(places)))
    data = jnp.concatenate([places, seen[:, None]], 1)
    value_fn = fnn.Objective(equation).on(inside) + 10.0 * fnn.Objective(thermometer).on(data)

    start = {
        "network": MODEL.init(jax.random.key(0), inside[0]),
        "log_spread": jnp.log(jnp.ones(())),
    }
    path = [1.0]

    def note(fit):
        path.append(float(jnp.exp(fit.params["log_spread"])))

    rule = rules.levenberg_marquardt(acceleration=0.75)
    trained = fnn.fit(rule, value_fn, start, steps=steps, callback=note)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.semilogy(path, "C0")
    left.axhline(SPREAD, color="k", ls="--", lw=1, label="truth")
    left.set(xlabel="steps", title=f"the coefficient: {path[-1]:.4f}, in truth {SPREAD}")
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    fine = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, 1, 80)] * 2, indexing="ij"), -1)
    u = jax.vmap(jax.vmap(functools.partial(MODEL.apply, trained.params["network"])))(fine)[..., 0]
    image = right.pcolormesh(fine[..., 0], fine[..., 1], u, cmap="inferno")
    right.scatter(*places.T, c=seen, cmap="inferno", edgecolors="w", s=30, label="thermometers")
    right.set(xlabel="t", ylabel="x", title="the network, and what was measured")
    figure.colorbar(image, ax=right)
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return path[-1]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(f"Heat spreads with {main():.4f}; in truth with {SPREAD}.")
