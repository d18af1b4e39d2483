"""A stiff ordinary differential equation: a leap within a ten-thousandth of the time.

uv run examples/stiff.py
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

PICTURE = Path(__file__).parent / "drawn" / "stiff.png"
RATE = 1e4
MODEL = layers.serial(layers.dense(24), layers.elementwise(jnp.tanh), layers.dense(1))


def truth(t):
    """The solution of y' = -RATE (y - cos t), y(0) = 0: it leaps, then follows the cosine."""
    a = RATE**2 / (1 + RATE**2)
    return a * (jnp.cos(t) + jnp.sin(t) / RATE - jnp.exp(-RATE * t))


def time(s):
    """From 0 to about 3: logarithmic but for the first of it, so that the leap has its room."""
    return jnp.expm1(s) / RATE


def network(params, s):
    """The network, 0 at the start, as a function of s in 0 .. log(1 + 3 RATE)."""
    return s * MODEL.apply(params, s[None] / 5 - 1)[0]


def equation(params, s):
    """The residual, dy/ds = dy/dt dt/ds, divided by the larger of its rates."""
    y = functools.partial(network, params)
    pace = derivative(time, 0)(s)
    fast = RATE * pace
    return (derivative(y, 0)(s) + fast * (y(s) - jnp.cos(time(s)))) / (1 + fast)


def main(steps: int = 400, picture: Path = PICTURE) -> float:
    """Solves it on 300 points; returns the largest error."""
    end = float(np.log1p(3 * RATE))
    points = jnp.linspace(0, end, 300)
    params = MODEL.init(jax.random.key(0), points[:1])
    rule, objective = rules.levenberg_marquardt(acceleration=0.75), fnn.Objective(equation)
    trained = fnn.fit(rule, objective, params, points, steps=steps)
    s = jnp.linspace(0, end, 1000)
    y = jax.vmap(functools.partial(network, trained.params))(s)
    wrong = jnp.abs(y - truth(time(s)))

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    left.semilogy(trained.history.value)
    left.set(xlabel="steps", title="value")
    middle.semilogx(time(s)[1:], y[1:], "C0", label="network")
    middle.semilogx(time(s)[1::25], truth(time(s))[1::25], "k.", label="solution")
    middle.set(xlabel="t", title=f"y' = -{RATE:g} (y - cos t)")
    middle.legend(frameon=False)
    right.loglog(time(s)[1:], wrong[1:] + 1e-17, "C3")
    right.set(xlabel="t", title=f"error, at most {float(jnp.max(wrong)):.0e}")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return float(jnp.max(wrong))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(f"The largest error is {main():.1e}.")
