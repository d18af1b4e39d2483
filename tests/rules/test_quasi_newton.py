"""BFGS and SR1 keep up with scipy, follow the textbook, and bear bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import fnn
from fnn import rules
from fnn.training import Stop
from tests import loop

both = pytest.mark.parametrize("make", [rules.bfgs, rules.sr1])

SIZE = 5
RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(SIZE, SIZE))
HESSIAN = FACTOR @ FACTOR.T + np.eye(SIZE)
MINIMUM = RNG.normal(size=SIZE)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(x):
    return (x - MINIMUM) @ HESSIAN @ (x - MINIMUM) / 2


def indefinite(x):
    return quadratic(x) - 4 * (x[0] - MINIMUM[0]) ** 2 + jnp.sum((x - MINIMUM) ** 4)


walk = jax.jit(loop.walk, static_argnames=("rule", "value_fn", "steps"))


@pytest.mark.parametrize(("make", "allowance"), [(rules.bfgs, 1.3), (rules.sr1, 2.5)])
def test_rosenbrock_as_scipy(make, allowance):
    """From the standard start and others they reach the same minimum in as many evaluations."""
    starts = np.array([[-1.2, 1.0], [5.0, -3.0], [0.0, 2.0], [-3.0, -1.0]])
    run = jax.jit(jax.vmap(lambda x: walk(make(), x, rosenbrock, 100)))
    paths, states = run(starts)
    value_and_grad = jax.jit(jax.value_and_grad(rosenbrock))
    theirs = [scipy.optimize.minimize(value_and_grad, x, jac=True, method="BFGS") for x in starts]
    arrived = np.argmax(np.max(np.abs(paths - 1), axis=-1) < 1e-5, axis=1)
    trials = np.take_along_axis(np.asarray(states.trials), arrived[:, None], axis=1)
    assert np.all(arrived > 0)
    assert np.sum(arrived) <= allowance * sum(found.nit for found in theirs)
    assert np.sum(trials) <= allowance * sum(found.nfev for found in theirs)
    np.testing.assert_allclose(paths[:, -1], 1, rtol=1e-7)
    assert np.all(states.info.stalled[:, -1])
    values = np.asarray(states.info.value)
    assert np.all(np.diff(values, axis=1) <= 0)
    np.testing.assert_allclose(values[:, -1], jax.vmap(rosenbrock)(paths[:, -1]), atol=1e-25)


def test_bfgs_with_exact_search_solves_a_quadratic_in_n_steps():
    """The steps are those of conjugate gradients, and at the end the Hessian is known."""
    path, states = walk(rules.bfgs(decrease=0.0, flatness=1e-9), jnp.zeros(SIZE), quadratic, SIZE)
    gradients = jax.vmap(jax.grad(quadratic))(jnp.vstack([jnp.zeros(SIZE), path]))
    grams = np.asarray(gradients[:-1] @ gradients[:-1].T)
    norms = np.sqrt(np.diag(grams))
    np.testing.assert_allclose(grams / np.outer(norms, norms), np.eye(SIZE), atol=1e-5)
    np.testing.assert_allclose(path[-1], MINIMUM, atol=1e-7)
    np.testing.assert_allclose(states.inverse[-1] @ HESSIAN, np.eye(SIZE), atol=1e-4)
    assert states.skipped[-1] == states.info.rejected[-1] == 0


def test_sr1_knows_the_hessian_after_n_steps_of_any_search():
    path, states = walk(rules.sr1(), 5 * jnp.ones(SIZE), quadratic, SIZE + 1)
    np.testing.assert_allclose(states.inverse[SIZE - 1] @ HESSIAN, np.eye(SIZE), atol=1e-4)
    np.testing.assert_allclose(path[-1], MINIMUM, atol=1e-6)
    assert states.skipped[SIZE - 1] == 0


def test_bfgs_is_the_textbooks_recurrence_with_a_strong_wolfe_search():
    """Equation 6.17 starts from the scaled identity, 6.20; 3.7 holds for every flatness."""
    start, flatness = jnp.array([-1.2, 1.0, 0.5]), np.array([0.9, 0.1])
    run = jax.jit(jax.vmap(lambda flat: walk(rules.bfgs(flatness=flat), start, rosenbrock, 12)))
    path, states = run(flatness)
    points = np.concatenate([np.tile(start, (2, 1, 1)), path], axis=1)
    values, slopes = jax.vmap(jax.vmap(jax.value_and_grad(rosenbrock)))(points)
    steps, changes = np.diff(points, axis=1), np.diff(slopes, axis=1)
    before, after = (np.sum(slopes[:, i] * steps, axis=2) for i in (slice(-1), slice(1, None)))
    assert np.all(np.diff(values) <= 1e-4 * before)
    assert np.all(np.abs(after) <= flatness[:, None] * np.abs(before))
    inverse = np.eye(3) * (steps[0, 0] @ changes[0, 0]) / (changes[0, 0] @ changes[0, 0])
    for s, y, found in zip(steps[0], changes[0], states.inverse[0], strict=True):
        left = np.eye(3) - np.outer(s, y) / (y @ s)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (y @ s)
        np.testing.assert_allclose(found, inverse, rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(found @ y, s, rtol=1e-8)
        assert np.linalg.eigvalsh(found)[0] > 0


@both
def test_inverse_to_start_from_makes_it_affinely_invariant(make):
    """On f(T z) from `inverse = (T' T)^-1` the path is the same, point by point."""
    turns = jnp.stack([jnp.eye(SIZE), FACTOR / 2 + 2 * np.eye(SIZE)])

    def run(turn):
        start, inverse = jnp.linalg.solve(turn, jnp.ones(SIZE)), jnp.linalg.inv(turn.T @ turn)
        state = make().init(start)._replace(inverse=inverse)
        path, _ = walk(make(), start, lambda z: indefinite(turn @ z), 12, state)
        return path @ turn.T

    plain, there = jax.jit(jax.vmap(run))(turns)
    np.testing.assert_allclose(there, plain, atol=1e-6)


def test_sr1_learns_negative_curvature_and_still_descends():
    def value_fn(x):
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4

    path, states = walk(rules.sr1(first_step=0.1), jnp.array([1.0, 0.05]), value_fn, 30)
    assert np.linalg.eigvalsh(states.inverse)[:, 0].min() < 0
    assert np.all(np.diff(states.info.value) <= 0)
    np.testing.assert_allclose(np.abs(path[-1]), [0, 2**0.5], atol=1e-6)


# Bad input ----------------------------------------------------------------------------------------


@both
def test_bad_input_never_reaches_the_parameters(make):
    """Steps on a x + b x^2 + c, with d added but at the start, are rejected; NaN does not stall."""
    nan, inf = jnp.nan, jnp.inf
    #                     NaN   inf  constant minimum  NaN around
    a, b, c, d, starts = (
        jnp.array([nan, inf, 0.0, 0.0, 1.0]),
        jnp.array([0.0, 0.0, 0.0, 1.0, 0.0]),
        jnp.array([0.0, 0.0, 3.0, 0.0, 0.0]),
        jnp.array([0.0, 0.0, 0.0, 0.0, nan]),
        jnp.array([1.0, 1.0, 1.0, 0.0, 1.0]),
    )

    def run(a, b, c, d, start):
        def value_fn(x):
            return a * x + b * x**2 + c + jnp.where(jnp.abs(x - start) > 0, d, 0.0)

        return walk(make(), start, value_fn, 2)

    path, states = jax.jit(jax.vmap(run))(a, b, c, d, starts)
    np.testing.assert_array_equal(path[:, -1], starts)
    np.testing.assert_array_equal(states.info.rejected[:, -1], 2)
    np.testing.assert_array_equal(states.info.stalled[:, -1], [False, False, True, True, True])
    assert np.all(np.isfinite(states.inverse))


def test_one_parameter():
    """The first trial may lie outside of the domain, and the descent may have no end."""

    def value_fn(x):
        return -jnp.log(x[0]) + x[0]

    path, states = walk(rules.bfgs(), jnp.array([0.1]), value_fn, 12)
    np.testing.assert_allclose(path[-1], 1, atol=1e-6)
    endless, states = walk(rules.bfgs(trials=3), jnp.zeros(1), lambda x: -x[0], 3)
    assert np.all(np.diff(endless[:, 0]) > 0)
    assert states.skipped[-1] == 3


def test_a_rejected_step_starts_over_from_the_identity():
    rule, start = rules.bfgs(), jnp.array([-1.2, 1.0])

    @jax.jit
    def run(factors):
        def on(factor):
            return lambda x: factor * rosenbrock(x)

        return loop.stream(rule, start, on, factors)

    path, states = run(jnp.array([1.0, 1.0, jnp.nan, 1.0]))
    np.testing.assert_array_equal(states.is_new, [False, False, True, False])
    np.testing.assert_array_equal(states.inverse[2], np.eye(2))
    np.testing.assert_array_equal(path[2], path[1])
    assert not np.any(states.info.stalled)


def test_stops_at_a_minimum_of_a_network():
    inputs = jnp.linspace(-1, 1, 20)[:, None]
    data = inputs, jnp.sin(inputs[:, 0])
    network = fnn.Objective(
        lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], fnn.losses.half_squared_error
    )
    objective = network + fnn.l2(1e-2)
    params = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([0.5, 0.3])}
    trained = fnn.fit(rules.sr1(), objective, params, data, steps=200)
    assert trained.stopped == Stop.CONVERGED
    assert optax.tree.norm(jax.grad(objective.on(data))(trained.params)) < 1e-6


@both
def test_no_minimum_is_claimed_for_a_direction_that_the_matrix_has_not_learned(make):
    """CLIFF of CUTEst: one curvature is 2e-4, the other 2e11 at first; the matrix is its inverse.

    The first gradient is so large that the last ones are small beside it wherever the run ends.
    """

    def cliff(x):
        return ((x[0] - 3) / 100) ** 2 - (x[0] - x[1]) + jnp.exp(20 * (x[0] - x[1]))

    trained = fnn.fit(make(), cliff, jnp.array([0.0, -1.0]), steps=200)
    assert trained.stopped == Stop.CONVERGED
    np.testing.assert_allclose(cliff(trained.params), 0.199786613, rtol=1e-8)


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"bfgs: expected decrease < flatness, got 0\.9 and 0\.1"):
        rules.bfgs(decrease=0.9, flatness=0.1)
    with pytest.raises(ValueError, match="sr1: expected trials in"):
        rules.sr1(trials=0)
    with pytest.raises(ValueError, match=r"10 x 10 numbers.*got 800; try optax\.lbfgs"):
        rules.bfgs(memory_budget=799).init(jnp.zeros(10))
    with pytest.raises(TypeError, match="expected value_fn= beside"):
        rules.bfgs().update(1.0, rules.bfgs().init(jnp.zeros(())), 1.0, value=1.0, grad=1.0)
