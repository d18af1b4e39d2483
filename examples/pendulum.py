"""A pendulum from noisy data: its friction, its length, and how sure one can be of them.

uv run examples/pendulum.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from jax import lax

import fnn
from fnn import curvature, rules

PICTURE = Path(__file__).parent / "drawn" / "pendulum.png"
NOISE, GRAVITY, STEPS, END = 0.05, 9.81, 200, 8.0
TRUTH = {"friction": 0.25, "length": 0.8, "angle": 2.0, "speed": 0.0}


def swing(params):
    """The angles at STEPS + 1 times, by the classical Runge-Kutta method."""

    def slope(y):
        angle, speed = y
        pull = GRAVITY / params["length"] * jnp.sin(angle)
        return jnp.stack([speed, -params["friction"] * speed - pull])

    def step(y, _):
        h, a = END / STEPS, slope(y)
        b = slope(y + h / 2 * a)
        c = slope(y + h / 2 * b)
        d = slope(y + h * c)
        y = y + h / 6 * (a + 2 * b + 2 * c + d)
        return y, y[0]

    start = jnp.stack([params["angle"], params["speed"]])
    _, angles = lax.scan(step, start, length=STEPS)
    return jnp.concatenate([start[:1], angles])


def main(steps: int = 200, picture: Path = PICTURE) -> dict[str, tuple[float, float]]:
    """Identifies it; returns each estimate with its standard deviation."""
    seen = jnp.arange(0, STEPS, STEPS // 40)
    data = swing(jax.tree.map(jnp.asarray, TRUTH))[seen]
    data += NOISE * jax.random.normal(jax.random.key(1), data.shape)
    objective = fnn.Objective(lambda params, data: swing(params)[seen] - data)
    value_fn = objective.on(data[None])
    start = jax.tree.map(jnp.asarray, dict(zip(TRUTH, (0.1, 1.0, 1.5, 0.0), strict=True)))
    trained = fnn.fit(rules.levenberg_marquardt(), value_fn, start, steps=steps)

    @jax.jit
    def deviations(params):
        posterior = curvature.laplace(value_fn, params, alpha=1e-6)
        units = {n: dict.fromkeys(TRUTH, 0.0 * params[n]) | {n: 1.0} for n in TRUTH}
        sigma = {n: jnp.sqrt(posterior.covariance(units[n])[n]) for n in TRUTH}
        return sigma, posterior.beta**-0.5

    sigma, noise = deviations(trained.params)
    found = {name: (float(trained.params[name]), float(sigma[name])) for name in TRUTH}

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    times = jnp.linspace(0, END, STEPS + 1)
    left.plot(times, swing(start), "C1", lw=1, label="start")
    left.plot(times, swing(trained.params), "C0", label="found")
    left.plot(times[seen], data, "ko", ms=3, label="data")
    left.set(xlabel="seconds", ylabel="angle", title=f"noise {noise:.3f}, in truth {NOISE}")
    left.legend(frameon=False, ncols=4, loc="upper right")
    for row, (name, (value, deviation)) in enumerate(found.items()):
        right.errorbar((value - TRUTH[name]) / deviation, row, xerr=1.96, fmt="C0o", capsize=3)
        right.text(-8.8, row + 0.2, f"{name} = {value:.3f} ± {deviation:.3f} (truth {TRUTH[name]})")
    right.axvline(0, color="k", ls="--", lw=1)
    right.set(xlim=(-9, 5), ylim=(-0.5, 3.7), yticks=[], xlabel="deviations from the truth, 95 %")
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return found


if __name__ == "__main__":
    print(main())
