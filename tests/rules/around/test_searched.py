"""Gauss-Newton directions are searched on a grid, or by optax's search after Armijo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, layers, rules
from fnn.training import Stop
from tests import loop

WAVE = Objective(lambda w, x: jnp.arctan(w * x))
X = jnp.array([0.5, 1.0, 2.0])


update = jax.jit(loop.update, static_argnames="rule")


def test_the_size_is_the_best_on_the_grid():
    value_fn, inner = WAVE.on(X), rules.gauss_newton()
    rule = rules.searched(inner, halvings=6)

    @jax.jit
    @jax.vmap
    def both(w):
        direction, _ = update(inner, w, value_fn)
        updates, state = update(rule, w, value_fn)
        values = jnp.stack([value_fn(w + 0.5**k * direction) for k in range(7)])
        return direction, updates, state, values, value_fn(w)

    direction, updates, state, values, before = both(jnp.array([0.3, 1.0, 4.0, -9.0]))
    sizes = 0.5 ** np.argmin(values, axis=1)
    lower = np.min(values, axis=1) < before
    np.testing.assert_array_equal(state.size, np.where(lower, sizes, 0))
    np.testing.assert_array_equal(updates, np.where(lower, sizes * direction, 0))
    least = np.where(lower, np.min(values, axis=1), before)
    np.testing.assert_allclose(state.info.value, least, rtol=1e-14)
    assert len(set(sizes.tolist())) > 1  # far out the whole step overshoots
    np.testing.assert_array_equal(state.info.stalled, ~lower)
    np.testing.assert_array_equal(state.info.accepted + state.info.rejected, 1)


def test_armijo_wants_its_share_of_the_promise():
    """On a parabola the step of Newton brings half of its slope's promise, and not more."""
    value_fn = Objective(lambda w, _: w).on(jnp.zeros(1))
    w = jnp.array(2.0)
    for decrease, size in ((0.49, 1.0), (0.51, 0.0)):
        rule = rules.searched(rules.gauss_newton(), decrease=decrease)
        _, state = update(rule, w, value_fn)
        assert state.size == size


def test_what_is_not_finite_is_not_taken():
    value_fn = Objective(lambda w, x: jnp.log(w) * x).on(X)  # the whole step leads below zero
    w = jnp.array(9.0)
    rule = rules.searched(rules.gauss_newton())
    updates, state = update(rule, w, value_fn)
    assert 0 < state.size < 1
    assert jnp.isfinite(value_fn(w + updates))
    lost = rules.searched(optax.scale(jnp.inf))
    updates, state = update(lost, w, value_fn)
    assert updates == 0
    assert state.info.stalled


SEARCHES = {
    "grid": rules.searched(rules.gauss_newton(damping=1e-6)),
    "armijo": optax.chain(
        rules.gauss_newton(damping=1e-6),
        optax.scale_by_backtracking_linesearch(30, decrease_factor=0.5, increase_factor=jnp.inf),
    ),
}


@pytest.mark.parametrize("rule", SEARCHES.values(), ids=SEARCHES)
def test_in_fit_on_a_network(rule):
    """Gauss-Newton alone would leap too far; with either search it arrives."""
    model = layers.serial(layers.dense(8), layers.elementwise(jnp.tanh), layers.dense(1))
    inputs = jnp.linspace(-1, 1, 40)[:, None]
    objective = Objective(lambda p, x: model.apply(p, x[:1]) - x[1:])
    data = jnp.concatenate([inputs, jnp.sin(3 * inputs)], 1)
    start = jax.jit(model.init)(jax.random.key(0), inputs[0])
    trained = fnn.fit(rule, objective, start, data, steps=100)
    assert trained.history.value[-1] < 1e-4 * trained.history.value[0]
    assert np.all(np.diff(trained.history.value) <= 0)


def test_fit_ends_where_a_search_has_nothing_to_gain():
    trained = fnn.fit(rules.searched(rules.gauss_newton()), WAVE, jnp.array(2.0), X, steps=100)
    assert trained.stopped == Stop.CONVERGED
    assert abs(trained.params) < 1e-8


def test_misuse_is_named():
    with pytest.raises(ValueError, match="halvings >= 0, got -1"):
        rules.searched(rules.gauss_newton(), halvings=-1)
    with pytest.raises(ValueError, match="decrease in"):
        rules.searched(rules.gauss_newton(), decrease=1.0)
    rule, w = rules.searched(rules.gauss_newton()), jnp.array(1.0)
    state = rule.init(w)
    with pytest.raises(TypeError, match="value_fn"):
        rule.update(w, state, w, value=w, grad=w)


def test_a_direction_that_leads_uphill_is_turned_around():
    """Newton's, between a maximum at 0 and minima at the roots of 1/2."""

    def value_fn(p):
        return p**4 - p**2

    rule, p = rules.searched(rules.newton()), jnp.array(0.1)
    advance = jax.jit(functools.partial(rule.update, value_fn=value_fn))
    state = rule.init(p)
    for _ in range(12):
        value, grad = jax.value_and_grad(value_fn)(p)
        updates, state = advance(grad, state, p, value=value, grad=grad)
        p = p + updates
    np.testing.assert_allclose(p, 0.5**0.5, rtol=1e-6)
