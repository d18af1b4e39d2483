"""Hessian-free: the path of conjugate gradients, the step chosen on it, damping, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, l2, losses, rules, solvers
from fnn.curvature import gauss_newton_system

RNG = np.random.default_rng(0)


@functools.partial(jax.jit, static_argnames=("rule", "steps"))
def walk(rule, params, value_fn, steps=1):
    """Parameters and state after each step."""

    def advance(carry, _):
        params, state = carry
        grad = jax.grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    return jax.lax.scan(advance, (params, rule.init(params)), length=steps)[1]


def textbook(matrix, right, x, weights, most):
    """Preconditioned conjugate gradients with the stop of Martens (2010): all iterates, models."""
    r = right - matrix @ x
    p = r / weights
    iterates, models = [x], [-x @ (right + r) / 2]
    for i in range(1, most + 1):
        image = matrix @ p
        length = r @ (r / weights) / (p @ image)
        after = r - length * image
        p_next = after / weights + (after @ (after / weights)) / (r @ (r / weights)) * p
        x, r, p = x + length * p, after, p_next
        iterates.append(x)
        models.append(-x @ (right + r) / 2)
        k = max(10, i // 10)
        if i > k and models[i] < 0 and (models[i] - models[i - k]) / models[i] < k * 5e-4:
            break
    return iterates, models


@pytest.mark.parametrize("power", [None, 0.75])
def test_the_path_is_the_textbooks(power):
    size, damping = 300, 1.0
    rows = RNG.normal(size=(size, size)) * np.logspace(0, -1, size)
    grad, start = RNG.normal(size=size), RNG.normal(size=size)
    system = solvers.from_rows(jnp.asarray(rows), jnp.zeros(size))
    improve = None if power is None else functools.partial(solvers.jacobi, power=power)
    path = jax.jit(
        lambda: solvers.descend(
            system, solvers.RightHandSide(None, jnp.asarray(grad)), damping, start, 250, improve
        )
    )()
    matrix = rows.T @ rows + damping * np.eye(size)
    weights = np.ones(size) if power is None else np.diag(matrix) ** power
    iterates, models = textbook(matrix, -grad, start, weights, 250)
    assert int(path.iterations) == len(iterates) - 1 < 250
    last = int(path.last)
    powers = sorted({int(np.ceil(1.3**j)) for j in range(30)})
    indices = [min(i, len(iterates) - 1) for i in powers[: last + 1]]
    assert indices[-1] == len(iterates) - 1
    expected = np.stack(iterates)[indices]
    off = np.linalg.norm(path.steps[: last + 1] - expected, axis=1)
    off = off / np.linalg.norm(expected, axis=1)
    assert np.all(off[:10] < 1e-9)  # conjugate directions lose digits
    assert np.all(off < 1e-2)
    np.testing.assert_allclose(path.models[: last + 1], np.asarray(models)[indices], rtol=1e-4)
    assert not np.any(path.steps[last + 1 :])
    assert bool(path.ok)


def test_few_parameters_are_solved_and_products_counted():
    inputs, targets = RNG.normal(size=(12, 5)), RNG.normal(size=12)
    value_fn = Objective(lambda w, x: x @ w, losses.half_squared_error).on((inputs, targets))
    value_fn = value_fn + l2(0.1)
    after, state = walk(rules.hessian_free(1e-6), jnp.zeros(5), value_fn)
    matrix = inputs.T @ inputs / 12 + (0.1 + 1e-6) * np.eye(5)
    np.testing.assert_allclose(
        after[0], np.linalg.solve(matrix, inputs.T @ targets / 12), rtol=1e-6
    )
    np.testing.assert_allclose(state.info.gain[0], 1, rtol=1e-6)
    assert int(state.products[0]) == 5 + 2  # the iterations, the start and the unit of damping
    assert int(state.evaluations[0]) == 2  # the end, and that the iterate before it is no better


VALLEY = Objective(lambda p, _: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])).on(jnp.zeros(1))


def test_the_valley_is_walked_down_and_the_damping_follows_the_gain():
    start = jnp.array([-1.2, 1.0])
    after, state = walk(rules.hessian_free(1.0), start, VALLEY, steps=60)
    assert np.all(np.diff(state.info.value) <= 0)
    assert state.info.value[-1] < 1e-12
    np.testing.assert_allclose(state.info.value, jax.vmap(VALLEY)(after))
    np.testing.assert_array_equal(state.info.accepted + state.info.rejected, state.info.steps)
    # The gain is that of the whole step, which is taken shorter where it is too long.
    ratio, gain = state.damping.value[1:] / state.damping.value[:-1], state.info.gain[1:]
    good = np.diff(state.info.accepted) == 1
    expected = np.where(gain > 0.75, 2 / 3, np.where(gain < 0.25, 1.5, 1.0))
    np.testing.assert_allclose(ratio, np.where(good, expected, 1.5))
    assert {0.67, 1.5} <= set(np.round(ratio, 2).tolist())
    assert np.any(good & (gain < 0))  # and shortened ones were taken


def test_a_minimum_stalls_and_a_start_without_a_promise_is_dropped():
    rule = rules.hessian_free(policy=rules.damping.trust_ratio(10.0, 0.5, maximum=1e3))
    after, state = walk(rule, jnp.array([1.0, 1.0]), VALLEY, steps=8)
    np.testing.assert_array_equal(after, 1)
    assert bool(state.info.stalled[-1])
    assert not np.any(state.last)


def constant(w, x):
    return 0 * w + x


def root(w, x):
    return jnp.sqrt(w) - x  # NaN below 0


BAD = {
    "no curvature": (constant, 1.0, 3.0),
    "not a number": (root, -1.0, 3.0),
    "infinite": (constant, 1.0, np.inf),
    "one parameter, one example": (root, 4.0, 3.0),
    "beyond the edge": (root, 4.0, -5.0),
}
RULES = {
    "hessian_free": rules.hessian_free(),
    "hessian_free, undamped": rules.hessian_free(0.0, precondition=0.75),
    "spring": rules.spring(0.1),
    "spring, undamped": rules.spring(0.1, 0.0),
    "accelerated": rules.levenberg_marquardt(acceleration=0.75),
}


@pytest.mark.parametrize("name", RULES)
def test_bad_input_is_a_rejected_step_or_a_good_one(name):
    rule = RULES[name]
    for what, (model, start, x) in BAD.items():
        start = jnp.array(start)
        value_fn = Objective(model).on(jnp.array([x]))
        after, state = walk(rule, start, value_fn, steps=3)
        counted = name.startswith("spring")  # it judges no step by its value
        rejected = state.info.rejected[-1]
        if what in ("not a number", "infinite", "no curvature"):
            np.testing.assert_array_equal(after, start)
            assert rejected == (0 if counted and what == "no curvature" else 3)
        elif what == "beyond the edge":  # all the way to a root that is not there
            assert np.all(np.isfinite(after))
            assert counted or np.all(after > 0)
        else:
            assert 4 < after[-1] <= 9.1


@pytest.mark.parametrize("chunk", [None, 4])
def test_products_by_the_model_are_those_of_the_rows(chunk):
    """With many outputs, or chunks, and through a custom derivative."""

    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
    objective = Objective(
        lambda p, x: twice(jnp.tanh(x @ p["a"])) @ p["b"], losses.softmax_cross_entropy
    )
    value_fn = objective.on((RNG.normal(size=(6, 2)), np.arange(6)), chunk=chunk)
    params = {"a": jnp.asarray(RNG.normal(size=(2, 3))), "b": jnp.asarray(RNG.normal(size=(3, 9)))}
    v = jax.tree.map(jnp.cos, params)

    def ask(params):
        system = gauss_newton_system(value_fn, params).system
        return system.multiply(v), system.transpose(system.product(v))

    found, expected = jax.jit(ask)(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), found, expected)


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"expected iterations in \[1.*got 0"):
        rules.hessian_free(iterations=0)
    with pytest.raises(ValueError, match="descend: expected iterations >= 1, got 0; try 250"):
        solvers.descend(
            solvers.from_rows(jnp.eye(2), jnp.zeros(2)),
            solvers.RightHandSide(jnp.ones(2)),
            0.0,
            jnp.zeros(2),
            iterations=0,
        )
    rule, start = rules.hessian_free(), jnp.ones(2)
    with pytest.raises(TypeError, match=r"got function <lambda>.*try fnn\.Objective"):
        rule.update(start, rule.init(start), start, value_fn=lambda p: p @ p)


@pytest.mark.parametrize("unit", [2.0**-50, 2.0**50])
def test_a_small_or_a_large_gradient_has_the_same_path(unit):
    """In float32, where its square is 0 or infinite."""
    rows = jnp.asarray(RNG.normal(size=(20, 20)) * np.logspace(0, -1, 20), jnp.float32)
    grad = jnp.asarray(RNG.normal(size=20), jnp.float32)
    system = solvers.from_rows(rows, jnp.zeros(20, jnp.float32))
    alone = solvers.conjugate_gradients(iterations=30)

    @jax.jit
    def steps(size):
        rhs = solvers.RightHandSide(None, size * grad)
        path = solvers.descend(system, rhs, 0.1, jnp.zeros(20, jnp.float32), 30)
        return path.steps[path.last] / size, alone.solve(system, rhs, 0.1).step / size

    for step, expected in zip(steps(jnp.float32(unit)), steps(jnp.float32(1)), strict=True):
        assert jnp.any(expected != 0)
        np.testing.assert_allclose(step, expected, rtol=1e-3, atol=1e-5)
