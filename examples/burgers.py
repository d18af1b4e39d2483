"""Burgers' equation: a wave that steepens, by a network that is given points where it is wrong.

uv run examples/burgers.py
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

PICTURE = Path(__file__).parent / "drawn" / "burgers.png"
VISCOSITY = 0.03
TANH = layers.elementwise(jnp.tanh)
MODEL = layers.serial(layers.dense(16), TANH, layers.dense(16), TANH, layers.dense(1))


def wave(params, point):
    """The network, made to satisfy u(0, x) = -sin(pi x) and u(t, -1) = u(t, 1) = 0."""
    t, x = point
    return t * (1 - x**2) * MODEL.apply(params, point)[0] - jnp.sin(jnp.pi * x)


def equation(params, point):
    """The residual of u_t + u u_x = VISCOSITY u_xx."""
    u = functools.partial(wave, params)
    carried = u(point) * derivative(u, 1)(point)
    return derivative(u, 0)(point) + carried - VISCOSITY * derivative(u, 1, 1)(point)


def truth(t, x):
    """The solution, by Cole's and Hopf's transformation and the quadrature of Gauss and Hermite."""
    at, weight = np.polynomial.hermite.hermgauss(80)
    y = x[..., None] - 2 * np.sqrt(VISCOSITY * t[..., None]) * at
    density = np.exp(-np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)) * weight
    return -np.sum(np.sin(np.pi * y) * density, -1) / np.sum(density, -1)


def main(rounds: int = 4, steps: int = 150, picture: Path = PICTURE) -> float:
    """Solves the equation; returns the relative L2 error."""
    rng = np.random.default_rng(0)
    points = rng.uniform((0, -1), (1, 1), (800, 2))
    params, values = MODEL.init(jax.random.key(0), points[0]), []
    objective, rule = fnn.Objective(equation), rules.levenberg_marquardt(acceleration=0.75)
    for _ in range(rounds):
        params, _, history, _ = fnn.fit(rule, objective, params, points, steps=steps)
        values.extend(history.value)
        # A quarter of the points move to where the residual is large.
        drawn = rng.uniform((0, -1), (1, 1), (4000, 2))
        wrong = np.abs(objective.outputs(params, drawn))
        points[rng.permutation(800)[:200]] = rng.choice(drawn, 200, p=wrong / wrong.sum())

    t, x = np.mgrid[0:1:100j, -1:1:200j]
    u = jax.vmap(jax.vmap(functools.partial(wave, params)))(np.stack([t, x], -1))
    error = float(np.linalg.norm(u - truth(t, x)) / np.linalg.norm(truth(t, x)))

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    left.semilogy(values)
    left.set(xlabel="steps", title=f"value; new points every {steps} steps")
    for i in (0, 25, 50, 99):
        middle.plot(x[i], u[i], color=plt.cm.viridis(i / 110), label=f"t = {t[i, 0]:.2f}")
        middle.plot(x[i, ::8], truth(t, x)[i, ::8], "k.", ms=3)
    middle.set(xlabel="x", title=f"the network; dots: the solution; error {error:.0e}")
    middle.legend(frameon=False)
    right.pcolormesh(t, x, u, cmap="RdBu")
    right.scatter(*points.T, s=2, c="k", alpha=0.4)
    right.set(xlabel="t", ylabel="x", title="the network and its last points")
    figure.savefig(picture, dpi=80)
    return error


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(f"The relative error is {main():.1e}.")
