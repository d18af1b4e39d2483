"""Linear in what is trained: random features and radial bases by least squares; ridge functions.

uv run examples/bases.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "bases.png"
NORMAL = jax.nn.initializers.normal(2.0)
RANDOM = layers.serial(
    layers.dense(40, weight=NORMAL, bias=NORMAL), layers.elementwise(jax.nn.relu), layers.dense(1)
)
RADIAL = layers.serial(layers.radial(12, center=NORMAL), layers.dense(1))


def least_squares(model, params, data):
    """The last layer solved, all before it held: one Levenberg-Marquardt step without damping."""
    value_fn = fnn.Objective(model.apply, losses.half_squared_error).on(data)
    held = tuple(jax.tree.map(lambda _, i=i: i < len(params) - 1, p) for i, p in enumerate(params))
    rule = rules.levenberg_marquardt(0.0, policy=rules.damping.constant())
    value_fn = value_fn.freeze(params, held)
    free = jax.tree.map(lambda p, m: None if m else p, params, held)
    return (*params[:-1], fnn.fit(rule, value_fn, free, steps=1).params[-1])


# Projection pursuit: y = sum_m phi_m(w_m x), every phi_m a sum of 9 bumps on its projection.
BUMPS = jnp.linspace(-3, 3, 9)
PURSUIT = layers.serial(
    layers.dense(2, bias=None),
    layers.elementwise(lambda z: jnp.exp(-((z[:, None] - BUMPS) ** 2)).ravel()),
    layers.dense(1),
)


def pursue(data, steps):
    """Directions and ridge functions together, by Levenberg-Marquardt."""
    objective = fnn.Objective(PURSUIT.apply, losses.half_squared_error)
    params = PURSUIT.init(jax.random.key(5), data[0][0])
    return fnn.fit(rules.levenberg_marquardt(), objective, params, data, steps=steps).params


def main(steps=60, picture=PICTURE):
    """Draws all three; returns root mean square errors."""
    x = np.linspace(-3, 3, 60)[:, None]
    data, errors = (x, np.sin(2 * x) * np.exp(-(x**2) / 6)), {}
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    for axes, (name, model) in zip(
        panels, {"random rectified units": RANDOM, "radial bases": RADIAL}.items(), strict=False
    ):
        params = least_squares(model, jax.jit(model.init)(jax.random.key(3), x[0]), data)
        outputs = jax.jit(jax.vmap(model.apply, (None, 0)))(params, x)
        errors[name] = float(np.sqrt(np.mean((outputs - data[1]) ** 2)))
        axes.plot(*data, "o", markersize=3, color=plots.COLORS[0])
        axes.plot(x, outputs, color=plots.COLORS[1])
        axes.set(title=f"{name}: {errors[name]:.1e}", xlabel="x")
    plane = np.asarray(jax.random.uniform(jax.random.key(4), (300, 2), minval=-1.5, maxval=1.5))
    values = np.sin(plane @ [2.0, 1.0]) + (plane @ [-0.5, 1.0]) ** 2
    params = pursue((plane, values[:, None]), steps)
    outputs = jax.jit(jax.vmap(PURSUIT.apply, (None, 0)))(params, plane)[:, 0]
    errors["projection pursuit"] = float(np.sqrt(np.mean((outputs - values) ** 2)))
    panels[2].plot(values, outputs, ".", color=plots.COLORS[0])
    panels[2].set(xlabel="truth", ylabel="two ridge functions", title="projection pursuit")
    print("\n".join(f"{name}: {error:.2e}" for name, error in errors.items()))
    figure.savefig(picture, dpi=80)
    return errors


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
