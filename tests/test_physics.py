"""Physics-informed networks from end to end: accuracy, bad starts, rounding, blocks."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, curvature, layers, rules
from fnn.differential import laplacian
from fnn.training import Stop

MODEL = layers.serial(layers.dense(16), layers.elementwise(jnp.tanh), layers.dense(1))


def interior(params, x):
    u = functools.partial(MODEL.apply, params)
    return laplacian(u)(x)[0] + 2 * jnp.pi**2 * jnp.prod(jnp.sin(jnp.pi * x))


EQUATION, BORDER = Objective(interior), Objective(MODEL.apply)


def blocks(key):
    """Fresh points, within and on the border."""
    inside, along, side = jax.random.split(key, 3)
    edge = jax.random.uniform(along, (40, 2))
    which = jax.random.randint(side, (40,), 0, 4)
    ends = jnp.where(jnp.arange(2) == (which % 2)[:, None], (which // 2)[:, None], edge)
    return EQUATION.on(jax.random.uniform(inside, (100, 2))) + 10.0 * BORDER.on(ends)


VALUE_FN = blocks(jax.random.key(1))
RULE = rules.levenberg_marquardt(acceleration=0.75)


def start(scale=1.0, dtype=float):
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros(2))
    return jax.tree.map(lambda leaf: (scale * leaf).astype(dtype), params)


def test_poisson_is_solved():
    trained = fnn.fit(RULE, VALUE_FN, start(), steps=300)
    assert trained.history.value[-1] < 1e-7
    fine = jnp.asarray(np.random.default_rng(0).uniform(size=(200, 2)))
    wrong = BORDER.outputs(trained.params, fine)[:, 0] - jnp.prod(jnp.sin(jnp.pi * fine), 1)
    assert jnp.max(jnp.abs(wrong)) < 1e-3


@pytest.mark.parametrize("exponent", [1, 4, 160])
def test_a_bad_start_recovers_or_stops_with_the_reason(exponent):
    """Never NaN, never worse; out of the range of numbers, said so."""
    trained = fnn.fit(RULE, VALUE_FN, start(10.0**exponent), steps=300)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.params))
    first, last = trained.history.value[0], trained.history.value[-1]
    if exponent == 1:
        assert trained.stopped == Stop.BUDGET
        assert last < 1e-5 * first
    elif exponent == 4:
        assert trained.stopped in {Stop.BUDGET, Stop.STALLED, Stop.CONVERGED}
        assert last <= first
    else:
        assert trained.stopped == Stop.NON_FINITE
        assert "not finite" in str(trained.stopped)


def test_float32_says_once_that_it_has_no_more_digits():
    inputs = jnp.linspace(-1, 1, 30, dtype=jnp.float32)[:, None]
    objective = Objective(lambda p, x: MODEL.apply(p, x) - jnp.sin(2 * x))
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros(1))
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    with pytest.warns(UserWarning, match="float32 has no more digits.*goal of 1e-11.*x64") as seen:
        trained = fnn.fit(RULE, objective, single, inputs, steps=2000, goal=1e-11)
    assert len(seen) == 1
    assert trained.stopped in {Stop.STALLED, Stop.CONVERGED}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # float64 has them
        trained = fnn.fit(RULE, objective, params, inputs.astype(float), steps=2000, goal=1e-11)
    assert trained.stopped == Stop.GOAL


STRUCTURE = curvature.structure(MODEL.apply, start(), jnp.zeros(2))


@pytest.mark.parametrize(
    "rule",
    [
        rules.levenberg_marquardt(),
        rules.spring(0.1, damping=1e-4, max_norm=None),
        rules.searched(rules.gauss_newton(damping=1e-6)),
        rules.kfac(STRUCTURE),
        rules.ekfac(STRUCTURE),
    ],
    ids=["levenberg_marquardt", "spring", "searched", "kfac", "ekfac"],
)
def test_every_second_order_rule_takes_blocks_and_fresh_points(rule):
    def value(params):
        return float(VALUE_FN(params))

    trained = fnn.fit(rule, blocks, start(), steps=40, key=jax.random.key(2))
    assert value(trained.params) < value(start()) / 30


def test_blocks_are_one_stacked_system():
    """The step on a sum of blocks is least squares of all their rows, weighted."""
    params, inside = start(), VALUE_FN.terms[0].block.inputs
    edge = VALUE_FN.terms[1].block.inputs
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def stacked(flat):
        params = unravel(flat)
        one = jax.vmap(functools.partial(interior, params))(inside) / 10
        two = jax.vmap(functools.partial(MODEL.apply, params))(edge)[:, 0] * 0.5
        return jnp.concatenate([one, two])

    jacobian, residuals = jax.jit(jax.jacobian(stacked))(flat), stacked(flat)
    matrix = jacobian.T @ jacobian + 1e-3 * jnp.eye(flat.size)
    expected = -jnp.linalg.solve(matrix, jacobian.T @ residuals)
    rule = rules.gauss_newton(damping=1e-3)

    @jax.jit
    def step(params):
        grad = jax.grad(VALUE_FN)(params)
        return rule.update(grad, rule.init(params), params, grad=grad, value_fn=VALUE_FN)[0]

    updates = step(params)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(updates)[0], expected, rtol=1e-7)
    assert optax.tree.norm(updates) > 0
