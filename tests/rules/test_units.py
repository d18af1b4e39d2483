"""What Levenberg-Marquardt arrives at does not depend on the units of outputs and parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, losses, rules
from fnn.rules import scaling

TIMES = np.linspace(-3, 3, 60)
START, TRUTH = np.array([1.0, 0.0, 1.0]), np.array([1.2, 0.3, 0.8])


def peak(params, x):
    return params[0] * jnp.exp(-(((x - params[1]) / params[2]) ** 2) / 2)


def walk(rule, objective, inputs, start, targets, steps=400):
    """Parameters and state where the rule cannot go on."""
    value_fn = objective.on((inputs, targets))

    def step(carry):
        params, state = carry
        grad = jax.grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    def is_going(carry):
        return (carry[1].info.steps < steps) & ~carry[1].info.stalled

    return jax.lax.while_loop(is_going, step, (start, rule.init(start)))


RULES = {
    "default": rules.levenberg_marquardt(),
    "identity": rules.levenberg_marquardt(scaling=scaling.identity),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("dtype", "most"), [("float32", 6), ("float64", 12)])
def test_a_peak_of_any_height_is_found(name, dtype, most):
    heights = 10.0 ** np.arange(-most, most + 1)[:, None]
    units = np.concatenate([heights, np.ones((len(heights), 2))], axis=1)
    truths = units * TRUTH
    targets = jax.vmap(lambda p: peak(p, TIMES))(jnp.asarray(truths))
    objective = Objective(peak, losses.half_squared_error)
    run = functools.partial(walk, RULES[name], objective, jnp.asarray(TIMES, dtype))
    starts, targets = jnp.asarray(units * START, dtype), targets.astype(dtype)
    params, _ = jax.jit(lambda *given: jax.lax.map(lambda one: run(*one), given))(starts, targets)
    np.testing.assert_allclose(params / truths, np.ones_like(truths), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 6), ("float64", 12)])
def test_the_path_under_more_is_that_of_other_units(dtype, most):
    rule = rules.levenberg_marquardt(scaling=scaling.more)

    def last(unit):
        objective = Objective(lambda p, x: peak(p / unit, x), losses.half_squared_error)
        targets = peak(jnp.asarray(TRUTH, dtype), jnp.asarray(TIMES, dtype))
        inputs, start = jnp.asarray(TIMES, dtype), jnp.asarray(START, dtype) * unit
        params, state = walk(rule, objective, inputs, start, targets, steps=5)
        return params / unit, state.info.value

    shapes = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, -1, 1], [-1, -1, -1]])
    units = jnp.asarray(10.0 ** (most * shapes), dtype)
    params, _ = jax.jit(lambda units: jax.lax.map(last, units))(units)
    tolerance = 1e-4 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(params, jnp.broadcast_to(params[0], params.shape), rtol=tolerance)
