"""Geodesic acceleration: the second derivative, the published run, one factorization, rejection."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fnn import Objective, l2, losses, rules, solvers
from fnn.curvature import accelerations
from fnn.rules import damping, scaling

RNG = np.random.default_rng(0)


def step(rule, params, value_fn, state=None):
    grad = jax.grad(value_fn)(params)
    state = rule.init(params) if state is None else state
    return rule.update(grad, state, params, grad=grad, value_fn=value_fn)


CANYON = Objective(lambda p, _: jnp.array([100 * (p[1] - p[0] ** 2), 1 - p[0]]))


@pytest.mark.parametrize(
    ("acceleration", "iterations", "evaluations", "cost"),
    [(0, 53, 56, 6.674986031430e-18), (0.75, 15, 17, 7.518932873279e-19)],
    ids=["straight", "bent"],
)
def test_the_runs_that_gsl_prints(acceleration, iterations, evaluations, cost):
    """GSL's manual, nonlinear least squares, "Geodesic acceleration example 2"."""
    value_fn = CANYON.on(jnp.zeros(1))
    rule = rules.levenberg_marquardt(
        policy=damping.nielsen(tau=1e-3), scaling=scaling.more, acceleration=acceleration
    )

    def flat(params):  # where GSL stops, gtol = 1e-8
        slope = jax.grad(lambda p: 2 * value_fn(p))(params) / 2
        largest = jnp.max(jnp.abs(slope) * jnp.maximum(jnp.abs(params), 1))
        return largest <= 1e-8 * jnp.maximum(value_fn(params), 1)

    def advance(carry):
        params, state = carry
        updates, state = step(rule, params, value_fn, state)
        return params + updates, state

    start = jnp.array([-0.5, 1.75])
    np.testing.assert_allclose(2 * value_fn(start), 2.250225e04)
    params, state = jax.jit(
        lambda carry: jax.lax.while_loop(lambda carry: ~flat(carry[0]), advance, carry)
    )((start, rule.init(start)))
    assert int(state.info.accepted) == iterations
    assert 1 + int(state.info.accepted) + int(state.info.rejected) == evaluations
    np.testing.assert_allclose(2 * value_fn(params), cost, rtol=1e-6)


def cube(params, x):
    return jnp.tanh(x @ params["a"]) ** 3 @ params["b"]


PARAMS = {"a": jnp.asarray(RNG.normal(size=(2, 3))), "b": jnp.asarray(RNG.normal(size=(3, 4)))}
INPUTS, WEIGHTS = RNG.normal(size=(5, 2)), np.array([1.0, 2.0, 0.0, 1.0, 3.0])
CASES = {
    "residuals": Objective(cube).on(INPUTS, weights=WEIGHTS),
    "chunks": Objective(cube).on(INPUTS, weights=WEIGHTS, chunk=2),
    "cross-entropy": Objective(cube, losses.softmax_cross_entropy).on((INPUTS, np.arange(5) % 4))
    * 3,
}


@pytest.mark.parametrize("name", CASES)
def test_accelerations_are_second_derivatives_of_the_outputs(name):
    value_fn, v = CASES[name], jax.tree.map(jnp.sin, PARAMS)
    ((scale, block, *_),) = value_fn.terms
    flat, unravel = ravel_pytree(PARAMS)
    line = ravel_pytree(v)[0]

    def example(x, target, weight):
        def outputs(flat):
            return cube(unravel(flat), x)

        bent = jnp.einsum("kij,i,j->k", jax.hessian(outputs)(flat), line, line)
        factor = jnp.eye(4)
        if block.loss is not None:
            factor, _ = losses.curvature(block.loss)(outputs(flat), target)
        return jnp.sqrt(scale * weight) * bent @ factor

    weights = jnp.ones(5) if block.weights is None else block.weights
    expected = jax.jit(jax.vmap(example))(block.inputs, block.targets, weights / weights.sum())
    found = jax.jit(accelerations)(value_fn, PARAMS, v)
    np.testing.assert_allclose(found[: expected.size], expected.ravel(), rtol=1e-9, atol=1e-14)
    assert not np.any(found[expected.size :])  # what fills up the last chunk


def test_a_model_without_forward_mode_says_what_to_try():
    @jax.custom_vjp
    def unit(x):
        return jnp.tanh(x)

    unit.defvjp(lambda x: (unit(x), x), lambda x, up: (up * (1 - jnp.tanh(x) ** 2),))
    value_fn = Objective(lambda p, x: unit(x * p)).on(jnp.ones(2))
    bent = jax.jit(functools.partial(step, rules.levenberg_marquardt(acceleration=0.75)))
    with pytest.raises(TypeError, match=r"custom_vjp has no.*acceleration=None.*custom_jvp"):
        bent(jnp.array(1.0), value_fn)


@pytest.mark.parametrize("solver", [solvers.dual(), solvers.primal()], ids=["dual", "primal"])
def test_step_and_acceleration_share_one_factorization(solver):
    value_fn = CASES["residuals"] + l2(0.1)

    def compiled(acceleration):
        rule = rules.levenberg_marquardt(solver=solver, acceleration=acceleration)
        text = jax.jit(functools.partial(step, rule)).lower(PARAMS, value_fn).compile().as_text()
        return len(re.findall(r'custom_call_target="lapack_\w*potrf', text))

    assert compiled(0.75) == compiled(0)


def test_the_step_is_bent_by_half_the_acceleration():
    value_fn, weight = CASES["residuals"], 0.2
    (updates, state), (straight, _) = (
        jax.jit(functools.partial(step, rule))(PARAMS, value_fn)
        for rule in (
            rules.levenberg_marquardt(weight, acceleration=100.0),
            rules.levenberg_marquardt(weight, acceleration=0),
        )
    )

    def residuals(params):
        shares = jnp.sqrt(WEIGHTS / WEIGHTS.sum())
        return (shares[:, None] * jax.vmap(cube, (None, 0))(params, INPUTS)).ravel()

    flat, unravel = ravel_pytree(PARAMS)
    rows = np.asarray(jax.jit(jax.jacobian(lambda flat: residuals(unravel(flat))))(flat))
    bends = jax.jit(lambda p: accelerations(value_fn, p, straight))(PARAMS)
    a = -np.linalg.solve(rows.T @ rows + weight * np.eye(flat.size), rows.T @ bends)
    np.testing.assert_allclose(ravel_pytree(updates)[0], ravel_pytree(straight)[0] + a / 2)
    assert (int(state.info.accepted), int(state.info.counts.cholesky)) == (1, 1)
    np.testing.assert_allclose(state.info.value, value_fn(optax.apply_updates(PARAMS, updates)))


def test_what_bends_too_much_is_rejected_and_a_linear_model_never_does():
    start, bends = jnp.array([-0.5, 1.75]), CANYON.on(jnp.zeros(1))
    linear = Objective(lambda p, x: x @ p - 1).on(jnp.eye(2))

    @jax.jit
    @jax.vmap
    def lanes(bound):
        rule = rules.levenberg_marquardt(acceleration=bound)
        return step(rule, start, bends), step(rule, start, linear)

    (updates, state), (even, flat) = lanes(jnp.array([0.0, 0.75]))
    assert state.info.rejected.tolist() == [1, 0]
    np.testing.assert_array_equal(updates[0], 0)
    assert np.any(updates[1])
    assert state.damping.value[0] > state.damping.value[1]
    assert flat.info.accepted.tolist() == [1, 1]
    np.testing.assert_array_equal(even[0], even[1])


def test_a_value_function_without_rows_is_not_bent():
    updates, state = step(rules.levenberg_marquardt(1.0, acceleration=0.75), jnp.ones(2), l2(1.0))
    np.testing.assert_allclose(updates, -0.5)
    assert int(state.info.accepted) == 1


def test_few_parameters_are_bent_by_default_where_the_model_allows_it():
    """As with 0.75, or with 0 where there are many, other scalings or no second derivative."""

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    only_reverse = Objective(lambda p, _: jnp.array([100 * (p[1] - square(p[0])), 1 - p[0]]))
    corner = Objective(lambda p, _: jnp.append(p[0] * p[1], jnp.abs(p[0] - p[1]) ** 1.5) - 2)
    many = Objective(lambda p, _: p**2 - 1)
    start = jnp.array([-0.5, 1.75])
    for objective, params, chosen, expected in (
        (CANYON, start, {}, 0.75),
        (CANYON, start, {"scaling": scaling.more}, 0),
        (only_reverse, start, {}, 0),
        (corner, jnp.ones(2), {}, 0),
        (many, jnp.full(101, 2.0), {}, 0),
    ):
        value_fn = objective.on(jnp.zeros(1))
        one, other = (
            jax.jit(functools.partial(step, rule))(params, value_fn)[0]
            for rule in (
                rules.levenberg_marquardt(1.0, **chosen),
                rules.levenberg_marquardt(1.0, acceleration=expected, **chosen),
            )
        )
        np.testing.assert_allclose(one, other)
        assert np.any(one)
