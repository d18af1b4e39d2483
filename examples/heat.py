"""The heat equation: a network that satisfies it everywhere, to four digits in seconds.

uv run examples/heat.py
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

PICTURE = Path(__file__).parent / "drawn" / "heat.png"
MODEL = layers.serial(layers.dense(32), layers.elementwise(jnp.tanh), layers.dense(1))


def initial(x):
    """Two waves, of which the shorter decays nine times as fast."""
    return jnp.sin(jnp.pi * x) + 0.5 * jnp.sin(3 * jnp.pi * x)


def truth(t, x):
    """The solution of u_t = u_xx / 20 with u = 0 at both ends."""
    slow, fast = jnp.exp(-(jnp.pi**2) / 20 * t), jnp.exp(-9 * jnp.pi**2 / 20 * t)
    return slow * jnp.sin(jnp.pi * x) + 0.5 * fast * jnp.sin(3 * jnp.pi * x)


def equation(params, point):
    """The residual at (t, x)."""
    u = functools.partial(MODEL.apply, params)
    return derivative(u, 0)(point) - derivative(u, 1, 1)(point) / 20


def start(params, x):
    """What the network says of time 0, less what is known of it."""
    return MODEL.apply(params, jnp.stack([jnp.zeros(()), x]))[0] - initial(x)


def ends(params, t):
    """What the network says of both ends, where it is 0."""
    return jnp.stack([MODEL.apply(params, jnp.stack([t, x]))[0] for x in (0 * t, 0 * t + 1)])


def main(steps: int = 600, picture: Path = PICTURE) -> float:
    """Solves the equation; returns the largest error, of a solution whose largest value is 1."""
    inside = np.random.default_rng(0).uniform(size=(900, 2))
    line = np.linspace(0, 1, 60)
    edges = fnn.Objective(start).on(line) + fnn.Objective(ends).on(line)
    value_fn = fnn.Objective(equation).on(inside) + 10.0 * edges
    params = MODEL.init(jax.random.key(0), inside[0])
    trained = fnn.fit(rules.levenberg_marquardt(acceleration=0.75), value_fn, params, steps=steps)

    t, x = jnp.mgrid[0:1:80j, 0:1:80j]
    outputs = jax.vmap(jax.vmap(functools.partial(MODEL.apply, trained.params)))
    u = outputs(jnp.stack([t, x], -1))[..., 0]
    wrong = jnp.abs(u - truth(t, x))

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    left.semilogy(trained.history.value, "C0")
    left.set(xlabel="steps", title="value")
    for i in (0, 10, 25, 79):
        middle.plot(x[i], u[i], color=plt.cm.viridis((i / 90) ** 0.5), label=f"t = {t[i, 0]:.2f}")
        middle.plot(x[i, ::5], truth(t[i], x[i])[::5], "k.", ms=3)
    middle.set(xlabel="x", title="the network; dots: the solution")
    middle.legend(frameon=False, fontsize=8)
    figure.colorbar(right.pcolormesh(t, x, jnp.log10(wrong + 1e-16), vmin=-7), ax=right)
    right.set(xlabel="t", ylabel="x", title="log10 of the error")
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return float(jnp.max(wrong))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(f"The largest error is {main():.1e}.")
