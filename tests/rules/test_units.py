"""What Levenberg-Marquardt arrives at does not depend on the units of outputs and parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, fit, losses, rules
from fnn.rules import scaling
from fnn.training import Stop

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


def in_units(params, x):
    """The peak of parameters in units of their own, in a unit of its own."""
    place, output, units = x
    return output * peak(params / units, place)


SECOND_ORDER = {
    "newton": (rules.searched(rules.newton()), ("outputs", "parameters", "one")),
    "gauss_newton": (rules.searched(rules.gauss_newton()), ("outputs", "parameters", "one")),
    "trust_region_newton": (rules.trust_region_newton(), ("outputs", "parameters")),
    "cubic_newton": (rules.cubic_newton(), ("outputs", "parameters")),
    "levenberg_marquardt": (rules.levenberg_marquardt(), ("outputs", "parameters")),
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_a_fit_in_other_units_takes_the_same_steps(name):
    """The reduced twin of `benchmarks/soak/units.py`."""
    rule, free_of = SECOND_ORDER[name]
    objective = Objective(in_units, losses.half_squared_error)
    heights = peak(TRUTH, TIMES) + 0.1 * np.random.default_rng(0).standard_normal(len(TIMES))

    def trained(kind, size):
        output = size if kind == "outputs" else 1.0
        units = np.array([size if kind == "one" else 1.0, 1.0, 1.0])
        units *= size if kind == "parameters" else 1.0
        n = len(TIMES)
        inputs = (TIMES, np.full(n, output), np.tile(units, (n, 1)))
        start = jnp.asarray(START * units)
        ended = fit(rule, objective, start, (inputs, output * heights), steps=60)
        return ended.params / units, ended.history.value / output**2, ended.stopped

    params, value, stopped = trained("outputs", 1.0)
    assert stopped == Stop.CONVERGED
    for kind in free_of:
        for size in (1e-12, 1e-5, 1e12):
            other, values, ending = trained(kind, size)
            assert ending == stopped
            np.testing.assert_allclose(other, params, rtol=1e-6)
            np.testing.assert_allclose(values[-1], value[-1], rtol=1e-9)
