"""A function of two numbers, fitted until float64 has no more digits.

uv run examples/precision.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import layers, losses, rules

PICTURE = Path(__file__).parent / "drawn" / "precision.png"
RULES = {
    "adam(3e-3)": rules.adam(3e-3),
    "levenberg_marquardt": rules.levenberg_marquardt(acceleration=0.75),
}


def truth(x):
    """What is fitted."""
    return jnp.sin(4 * x[..., :1]) * jnp.cos(3 * x[..., 1:])


def main(steps: int = 1000, width: int = 50, picture: Path = PICTURE) -> dict[str, float]:
    """Fits it with each rule; returns the mean squared errors."""
    inputs = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1000, 2)))
    tanh = layers.elementwise(jnp.tanh)
    model = layers.serial(layers.dense(width), tanh, layers.dense(width), tanh, layers.dense(1))
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    start = model.init(jax.random.key(0), inputs[0])

    fits = {
        name: fnn.fit(rule, objective, start, (inputs, truth(inputs)), steps=steps)
        for name, rule in RULES.items()
    }
    errors = {name: 2 * float(np.min(fit.history.value)) for name, fit in fits.items()}

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, fit in fits.items():
        left.semilogy(2 * fit.history.value, label=f"{name}: {errors[name]:.0e}")
    left.set(xlabel="steps", title="mean squared error at 1000 points")
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    fine = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1, 1, 120)] * 2, indexing="ij"), -1)
    best = fits[min(errors, key=lambda name: errors[name])]
    outputs = jax.vmap(jax.vmap(lambda x: model.apply(best.params, x)))(fine)
    wrong = (outputs - truth(fine))[..., 0]
    image = right.pcolormesh(fine[..., 0], fine[..., 1], jnp.log10(jnp.abs(wrong) + 1e-18))
    right.scatter(*inputs.T, s=1, c="w", alpha=0.5)
    right.set(title="log10 of the error between the points", xlabel="x", ylabel="y")
    figure.colorbar(image, ax=right)
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return errors


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(main())
