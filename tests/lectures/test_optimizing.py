"""What is lectured on optimization holds, where no rule's own test says so."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, curvature, losses, rules
from tests import loop

RNG = np.random.default_rng(0)


def test_rates_whose_sum_is_infinite_and_whose_squares_are_not_average_the_noise_away():
    """The rate 1/(k+1) makes sgd the mean of what it has seen; others are stopped or shaken."""
    noise = jnp.asarray(RNG.normal(size=4000))

    def ends(schedule, start):
        def step(carry, seen):
            w, state = carry
            updates, state = rule.update(w - seen, state, w)
            return (w + updates, state), w

        rule = rules.sgd(schedule)
        begin = (jnp.asarray(start), rule.init(jnp.asarray(start)))
        (w, _), path = jax.lax.scan(step, begin, noise)
        return float(w), np.asarray(path)

    w, _ = ends(lambda k: 1 / (1 + k), 50.0)
    np.testing.assert_allclose(w, noise.mean(), atol=1e-12)  # whatever the start
    summable, _ = ends(lambda k: 0.5 ** (k + 1.0), 50.0)
    assert summable > 10  # the sum of rates is 1: it never arrives
    decay = optax.linear_schedule(0.9, 0.1, transition_steps=500)
    np.testing.assert_allclose(
        [decay(0), decay(250), decay(500), decay(4000)], [0.9, 0.5, 0.1, 0.1]
    )
    _, path = ends(decay, 50.0)
    shaken = np.std(path[1000:])  # eps/(2 - eps) of the noise stays: squares are not summable
    assert shaken == pytest.approx((0.1 / 1.9) ** 0.5, rel=0.2)


def test_the_regularized_newton_step_is_downhill_beyond_the_lowest_curvature():
    """-(H + alpha I)^-1 g leads downhill for alpha > -lambda_min, and may lead uphill below."""
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    hessian = turn @ np.diag([-2.0, 1.0, 5.0]) @ turn.T
    start = jnp.asarray(turn @ [1.0, 0.1, 0.1])

    def value_fn(p):
        return p @ hessian @ p / 2

    grad, alphas = jax.grad(value_fn)(start), jnp.array([0.0, 2.1, 3.0, 100.0])
    steps = jax.jit(
        jax.vmap(lambda alpha: loop.update(rules.newton(damping=alpha), start, value_fn)[0])
    )
    for alpha, step in zip(alphas, steps(alphas), strict=True):
        exact = -np.linalg.solve(hessian + alpha * np.eye(3), grad)
        np.testing.assert_allclose(step, exact, rtol=1e-8)
        assert (step @ grad < 0) == (alpha > 2)
    close = np.linalg.norm(100 * step + grad) / np.linalg.norm(grad)
    assert close < 0.05  # alpha of 20 times the largest curvature: nearly gradient descent


def test_levenberg_marquardt_is_that_step_with_the_jacobians_product_for_the_hessian():
    x, t, w = RNG.normal(size=(20, 3)), RNG.normal(size=20), jnp.array([0.3, -0.2, 0.5])
    objective = Objective(lambda w, x: jnp.tanh(w @ x), losses.half_squared_error)
    value_fn = objective.on((x, t))
    grad = jax.grad(value_fn)(w)
    J = jax.vmap(jax.grad(objective.model), (None, 0))(w, x)
    rule = rules.levenberg_marquardt(damping=0.7, acceleration=0)
    step = jax.jit(lambda w: loop.update(rule, w, value_fn)[0])(w)
    exact = -np.linalg.solve(J.T @ J / 20 + 0.7 * np.eye(3), grad)
    np.testing.assert_allclose(step, exact, rtol=1e-8)


def test_the_signs_of_eigenvalues_tell_critical_points():
    """The curvature tells a maximum, a saddle and a minimum apart, except where it is zero."""
    kinds = {}
    for signs in itertools.product([-1.0, 1.0], repeat=2):
        diagonal = jnp.array(signs)
        point = curvature.spectrum.classify(lambda p, d=diagonal: p**2 @ d / 2, jnp.zeros(2))
        kinds[signs] = str(point).split(":")[0]
    assert kinds == {
        (-1, -1): "A maximum",
        (-1, 1): "A saddle",
        (1, -1): "A saddle",
        (1, 1): "A minimum",
    }
    plateau = curvature.spectrum.classify(lambda p: jnp.sum(p**4), jnp.zeros(2))
    assert str(plateau).startswith("A plateau")


def test_momentum_is_faster_along_a_ravine_by_the_root_of_its_condition():
    """The best rates contract by (k - 1)/(k + 1), k = 100, and with momentum by its like in 10."""
    curvatures = jnp.array([1.0, 100.0])
    value_fn = fnn.penalty(lambda p: p**2 @ curvatures / 2)
    start = jnp.ones(2)
    slow = fnn.fit(rules.sgd(2 / 101), value_fn, start, steps=100).params
    best = rules.momentum((2 / 11) ** 2, (9 / 11) ** 2)
    fast = fnn.fit(best, value_fn, start, steps=100).params
    assert jnp.abs(slow).max() == pytest.approx((99 / 101) ** 100, rel=1e-6)
    assert jnp.abs(fast).max() < 200 * (9 / 11) ** 100
