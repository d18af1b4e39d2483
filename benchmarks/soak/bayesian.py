"""Thirty starts of Bayesian Levenberg-Marquardt on a noisy sine, beside Levenberg-Marquardt.

    uv run benchmarks/soak/bayesian.py [STARTS]

sin(2 pi x) on (-1, 1), 41 even points with noise 0.1, a 1-20-1 network of 61 parameters, nothing
tuned. Every start has noise and weights of its own. What it asserts:

- the test error (against fresh noise) is below plain Levenberg-Marquardt's in nine starts of ten;
- in the median gamma is between 8 and 16, and the band outputs +- 1.96 sqrt(variance + 1 / beta)
  of `curvature.laplace` covers 90 to 99 % of fresh points;
- alpha and beta are where the evidence is largest: for one start the network is trained again at
  every alpha and beta of a grid around them.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn import curvature, layers, losses, rules

NOISE, UPDATES, FRESH = 0.1, 500, 1000
MODEL = layers.serial(layers.dense(20), layers.elementwise(jnp.tanh), layers.dense(1))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.half_squared_error)


def sine(key, x):
    """Noisy targets, one for each x."""
    return jnp.sin(2 * jnp.pi * x) + NOISE * jax.random.normal(key, x.shape, x.dtype)


def train(rule, value_fn, params, updates=UPDATES):
    """Parameters and state after so many updates."""

    def advance(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        change, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return (optax.apply_updates(params, change), state), None

    return jax.lax.scan(advance, (params, rule.init(params)), length=updates)[0]


def start(key):
    """Training data, fresh data and weights."""
    weights, noise, where, fresh = jax.random.split(key, 4)
    inputs = jnp.linspace(-1, 1, 41)[:, None]
    others = jax.random.uniform(where, (FRESH, 1), minval=-1, maxval=1)
    params = MODEL.init(weights, inputs[0])
    return (inputs, sine(noise, inputs)), (others, sine(fresh, others)), params


def error(params, data):
    """Root of the mean squared error."""
    return jnp.sqrt(2 * OBJECTIVE.on(data)(params))


@functools.partial(jax.jit, static_argnames="updates")
def run(key, updates=UPDATES):
    """One start: what the assertions are about, and the trained network."""
    data, (inputs, targets), params = start(key)
    value_fn = OBJECTIVE.on(data)
    plain, _ = train(rules.levenberg_marquardt(), value_fn, params, updates)
    params, state = train(rules.bayesian_levenberg_marquardt(), value_fn, params, updates)
    posterior = curvature.laplace(value_fn, params, state.alpha, state.beta)
    outputs, variance, noise, _ = posterior.predict(inputs)
    inside = jnp.abs(targets - outputs) <= 1.96 * jnp.sqrt(variance + noise)
    row = {
        "plain error": error(plain, (inputs, targets)),
        "error": error(params, (inputs, targets)),
        "gamma": state.gamma,
        "alpha": state.alpha,
        "noise": state.beta**-0.5,
        "log evidence": state.log_evidence,
        "band covers": jnp.mean(inside),
        "accepted": state.info.accepted,
        "stalled": state.info.stalled,
    }
    return row, params


@jax.jit
def log_evidence(key, params, alpha, beta):
    """Of the network trained at this alpha and beta, from params."""
    value_fn = OBJECTIVE.on(start(key)[0])
    decayed = value_fn + fnn.l2(alpha / (beta * 41))
    params, _ = train(rules.levenberg_marquardt(), decayed, params)
    return curvature.laplace(value_fn, params, alpha, beta).log_evidence


def grid(key, row, params, factors):
    """The log evidence around the alpha and beta that were found."""
    return np.array([
        [log_evidence(key, params, a * row["alpha"], b / row["noise"] ** 2) for b in factors]
        for a in factors
    ])


def main(starts: int = 30, points: int = 7) -> None:
    """Runs, prints the table, asserts.

    Args:
        starts: How many.
        points: Of the grid, along alpha and along beta; odd.
    """
    keys = jax.random.split(jax.random.key(0), starts)
    rows, networks = zip(*map(run, keys), strict=True)
    print(" ".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{float(number):12.4g}" for number in row.values()))
    better = sum(bool(row["error"] < row["plain error"]) for row in rows)
    median = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    print("medians:", {name: round(number, 4) for name, number in median.items()})
    print(f"test error below plain Levenberg-Marquardt's in {better} of {starts}")
    assert better >= 0.9 * starts
    assert 8 <= median["gamma"] <= 16
    assert 0.90 <= median["band covers"] <= 0.99

    factors = np.exp(np.linspace(-0.6, 0.6, points))
    found = grid(keys[0], rows[0], networks[0], factors)
    print("log evidence; down: alpha, across: beta, both by factors", factors.round(2))
    print((found - found.max()).round(3))
    best = np.unravel_index(found.argmax(), found.shape)
    print("largest at", factors[best[0]].round(2), factors[best[1]].round(2))
    assert max(abs(index - points // 2) for index in best) <= points // 6


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*map(int, sys.argv[1:]))
