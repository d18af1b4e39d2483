"""Ten curves of textbooks, with noisy data of each, for fits with error bars."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Curve(NamedTuple):
    """A model `(params, x) -> y`, where it was measured, the truth, and where to start."""

    model: object
    x: np.ndarray
    truth: dict
    start: dict
    noise: float

    @property
    def data(self):
        """Inputs, targets and their standard deviations, which differ by a factor of three."""
        rng = np.random.default_rng(len(self.x))
        sigma = self.noise * rng.uniform(0.5, 1.5, len(self.x))
        return (
            self.x,
            np.asarray(self.model(self.truth, self.x)) + sigma * rng.normal(size=len(self.x)),
            sigma,
        )


def decay(p, x):
    return p["a"] * jnp.exp(-p["rate"] * x) + p["rest"]


def peak(p, x):
    return p["height"] * jnp.exp(-0.5 * ((x - p["center"]) / p["width"]) ** 2)


def logistic(p, x):
    return p["top"] / (1 + jnp.exp(-p["rate"] * (x - p["middle"])))


def michaelis_menten(p, x):
    return p["most"] * x / (p["half"] + x)


def sine(p, x):
    return p["a"] * jnp.sin(p["omega"] * x + p["phase"])


def line(p, x):
    return p["slope"] * x + p["intercept"]


def polynomial(p, x):
    return p["c"][0] + x * (p["c"][1] + x * (p["c"][2] + x * p["c"][3]))


def power_law(p, x):
    return p["a"] * x ** p["exponent"]


def double_exponential(p, x):
    return p["a"][0] * jnp.exp(-p["rate"][0] * x) + p["a"][1] * jnp.exp(-p["rate"][1] * x)


def damped_oscillation(p, x):
    return p["a"] * jnp.exp(-p["rate"] * x) * jnp.cos(p["omega"] * x + p["phase"])


def curve(model, x, noise, start, **truth):
    """A curve; numbers become arrays."""
    names = dict(zip(truth, start, strict=True))
    return Curve(model, x, truth, {k: jnp.asarray(v, float) for k, v in names.items()}, noise)


GRID = np.linspace(0.1, 10, 40)
CURVES = {
    "exponential decay": curve(decay, GRID, 0.1, (3.0, 1.0, 0.0), a=5.0, rate=0.6, rest=1.0),
    "gaussian peak": curve(peak, GRID, 0.2, (3.0, 5.0, 1.0), height=4.0, center=4.4, width=1.3),
    "logistic": curve(logistic, GRID, 0.2, (8.0, 1.0, 4.0), top=10.0, rate=1.4, middle=5.0),
    "michaelis-menten": curve(michaelis_menten, GRID, 0.02, (2.0, 1.0), most=1.4, half=2.2),
    "sine": curve(sine, GRID, 0.2, (1.5, 1.7, 0.0), a=2.0, omega=1.8, phase=0.4),
    "line": curve(line, GRID, 0.5, (0.0, 0.0), slope=2.0, intercept=-1.0),
    "polynomial": curve(
        polynomial, GRID / 5, 0.1, (np.zeros(4),), c=np.array([1.0, -2.0, 0.5, 0.7])
    ),
    "power law": curve(power_law, GRID, 0.3, (1.0, 1.0), a=2.0, exponent=1.3),
    "double exponential": curve(
        double_exponential,
        GRID,
        0.01,
        (np.array([1.0, 1.0]), np.array([3.0, 0.1])),
        a=np.array([3.0, 2.0]),
        rate=np.array([1.7, 0.3]),
    ),
    "damped oscillation": curve(
        damped_oscillation, GRID, 0.05, (1.0, 0.1, 2.2, 0.0), a=2.0, rate=0.25, omega=2.3, phase=0.5
    ),
}
