"""The smallest GAN: the spectrum of its saddle, and what a critic at its best is worth.

uv run examples/dirac.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "dirac.png"
PENALTIES, SHIFTS, PLACES = (0.0, 0.3, 1.0, 1.5), (0.0, 1.0, 2.0, 3.0), np.linspace(-9, 12, 1001)
RATE, START = 0.2, jnp.array([1.0, 0.0])
CRITIC = fnn.Objective(lambda p, x: p[0] * x + p[1], losses.logistic)
CRITICS = {"adam": (rules.adam(0.3), 200), "levenberg_marquardt": (rules.levenberg_marquardt(), 25)}


def value(p):
    """What the forger of the sample p[0] wants low; data are at 0, logits p[1] times the place."""
    return -jnp.log(2.0) - jax.nn.softplus(p[0] * p[1])


def step(p, penalty):
    """Both go along their gradients; the critic pays for its own slope, penalty p[1]^2 / 2."""
    down, up = jax.grad(value)(p)
    return p + RATE * jnp.stack([-down, up - penalty * p[1]])


def spectrum(penalty):
    """Eigenvalues of the field that both descend, at the saddle."""
    jacobian = jax.jacobian(step)(jnp.zeros(2), penalty)
    return np.sort_complex(np.linalg.eigvals((np.eye(2) - jacobian) / RATE))


def worth(rule, shift, steps):
    """The value of a trained critic of N(0, 1) against N(shift, 1), and of the best one."""
    real, made = (np.exp(-((PLACES - mean) ** 2) / 2) for mean in (0, shift))
    answers = np.tile(PLACES, 2), np.repeat([1.0, 0.0], len(PLACES))
    value_fn = CRITIC.on(answers, weights=np.concatenate([real, made]))
    run, logits = fnn.fit(rule, value_fn, jnp.ones(2), steps=steps), np.log(real / made)
    best = real @ np.logaddexp(0, -logits) + made @ np.logaddexp(0, logits)
    return -2 * float(value_fn(run.params)), -best / real.sum()


def main(steps=150, picture=PICTURE):
    """Draws the picture; returns eigenvalues and factor by penalty, and the worth of critics."""
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
    found, worths, gamma = {}, {}, np.linspace(0, 2, 201)[:, None] + 0j
    branches = gamma / 2 + np.sqrt(gamma**2 / 4 - 1 / 4) * [-1, 1]  # for all penalties up to 2
    panels[1].plot(branches.real, branches.imag, color="0.7")
    for i, penalty in enumerate(PENALTIES):
        _, path = jax.lax.scan(lambda p, _, c=penalty: (step(p, c), p), START, length=steps + 1)
        (color, _, marker), far = plots.style(i), np.linalg.norm(path, axis=1)
        found[penalty] = spectrum(penalty), (far[-1] / far[steps // 2]) ** (2 / steps)
        panels[0].plot(*np.asarray(path).T, ".-", markersize=4, linewidth=0.8, color=color)
        places = found[penalty][0].real, found[penalty][0].imag
        panels[1].plot(*places, marker, color=color, label=f"penalty {penalty}")
        print(f"penalty {penalty}: eigenvalues and factor in each step", *found[penalty])
    for i, (name, (rule, n)) in enumerate(CRITICS.items()):
        worths[name], best = np.transpose([worth(rule, shift, n) for shift in SHIFTS])
        panels[2].plot(SHIFTS, worths[name], "ox"[i], color=plots.COLORS[i], label=name)
        print(f"{name:20} 2 parameters, {n:3} steps: {np.abs(worths[name] - best).max():.1e} off")
    panels[2].plot(SHIFTS, best, color="0.7", zorder=0, label="the best critic")
    panels[0].set(xlabel="the sample", ylabel="slope of the critic", title="steps of rate 0.2")
    panels[1].set(xlabel="real part", ylabel="imaginary part", title="eigenvalues at the saddle")
    panels[2].set(xlabel="means apart", title="value of the game: -log 4 where p = q")
    panels[1].legend(frameon=False)
    panels[2].legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return found, worths, best


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
