"""A rule does not notice the changes of coordinates and units that it claims, and no others.

Each rule walks on f from x, and on scale f(T^T y) from y = T x, where T is orthogonal. Brought back
by T^T the second path is the first, if the rule claims so in its docstring; and if it does not
claim so, the path must be another.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import rules
from tests import loop

N, STEPS = 5, 20
RATE = 0.03
SLOPES = np.random.default_rng(1).normal(size=(2 * N, N)) * np.arange(1, N + 1)


def f(x):
    """It is convex, not quadratic, and has no symmetry of its own."""
    return jnp.sum(jax.nn.softplus(SLOPES @ x - 1.0)) + jnp.sum(jnp.cosh(x - 0.3))


def transformations():
    """Each name has its orthogonal T and its scale of the loss."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(N, N)))
    signed = np.eye(N)[rng.permutation(N)] * np.where(np.arange(N) % 2, -1.0, 1.0)
    return {
        "rotation": (rotation, 1.0),
        "permutation and sign flips": (signed, 1.0),
        "scaling of the loss": (np.eye(N), 1000.0),
    }


ROTATION, SIGNS, SCALING = transformations()
INVARIANT = {
    "sgd": (rules.sgd(RATE / 100), {ROTATION, SIGNS}),
    "sgd with a trace": (rules.sgd(RATE / 100, momentum=0.9), {ROTATION, SIGNS}),
    "momentum": (rules.momentum(RATE / 100), {ROTATION, SIGNS}),
    "nesterov": (rules.nesterov(RATE / 100), {ROTATION, SIGNS}),
    "adagrad": (rules.adagrad(RATE, 0.0, eps=0.0), {SIGNS, SCALING}),
    "rmsprop": (rules.rmsprop(RATE, eps=0.0), {SIGNS, SCALING}),
    "rmsprop, centered": (rules.rmsprop(RATE, eps=0.0, centered=True), {SIGNS, SCALING}),
    "adam": (rules.adam(RATE, eps=0.0), {SIGNS, SCALING}),
    "adam with eps": (rules.adam(RATE, eps=1e-2), {SIGNS}),
    "nadam": (rules.adam(RATE, eps=0.0, nesterov=True), {SIGNS, SCALING}),
    "adamw": (rules.adamw(RATE, eps=0.0, weight_decay=0.1), {SIGNS, SCALING}),
    "rprop": (rules.rprop(RATE), {SIGNS, SCALING}),
    "soap": (rules.soap(RATE, eps=0.0), {SIGNS, SCALING}),  # of a vector; see test_from_gradients
    "shampoo": (rules.shampoo(RATE, eps=0.0), {SIGNS, SCALING}),
    "saddle_free_newton": (rules.saddle_free_newton(0.1), {ROTATION, SIGNS, SCALING}),
    "saddle_free_newton, damped": (rules.saddle_free_newton(0.1, 1.0), {ROTATION, SIGNS}),
    "trust_region_newton": (rules.trust_region_newton(), {ROTATION, SIGNS, SCALING}),
    "cubic_newton": (rules.cubic_newton(), {ROTATION, SIGNS, SCALING}),
    "cubic_newton, number": (rules.cubic_newton(1.0), {ROTATION, SIGNS}),
    "bfgs": (rules.bfgs(), {ROTATION, SIGNS, SCALING}),
    "sr1": (rules.sr1(), {ROTATION, SIGNS, SCALING}),
}


def walk(rule, turn, scale):
    """The path on the transformed function is brought back."""

    def value_fn(y):
        return scale * f(turn.T @ y)

    ys, _ = loop.walk(rule, turn @ jnp.linspace(-1.0, 2.0, N), value_fn, STEPS)
    return ys @ turn


@pytest.mark.parametrize("name", INVARIANT)
def test_path_is_unchanged_exactly_where_claimed(name):
    rule, claimed = INVARIANT[name]
    turns, scales = zip((np.eye(N), 1.0), *transformations().values(), strict=True)
    plain, *paths = jax.jit(jax.vmap(functools.partial(walk, rule)))(
        np.stack(turns), np.stack(scales)
    )
    assert np.max(np.abs(plain[-1] - plain[0])) > 1e-2
    unchanged = {
        symmetry
        for symmetry, path in zip(transformations(), paths, strict=True)
        if np.max(np.abs(path - plain)) < 1e-7  # a last step may be rejected for rounding
    }
    assert unchanged == claimed


# Exact cases --------------------------------------------------------------------------------------

GRAD = jnp.array([3.0, -1e-5, 0.0, 40.0])


def first_step(rule):
    return rule.update(GRAD, rule.init(GRAD), GRAD)[0]


@pytest.mark.parametrize(
    "rule",
    [
        rules.adam(RATE, eps=0.0),
        rules.adam(RATE, b1=0.5, b2=0.1, eps=0.0),
        rules.adagrad(RATE, 0.0, eps=0.0),
        rules.rmsprop(RATE, eps=0.0, bias_correction=True),
        rules.rprop(RATE),
    ],
)
def test_first_step_is_the_sign_of_the_gradient(rule):
    np.testing.assert_allclose(first_step(rule), -RATE * np.sign(GRAD), rtol=1e-12)


def test_first_step_of_rmsprop_is_larger_for_its_mean_starts_from_zero():
    step = first_step(rules.rmsprop(RATE, decay=0.9, eps=0.0))
    np.testing.assert_allclose(step, -RATE * np.sign(GRAD) / np.sqrt(1 - 0.9), rtol=1e-12)


@pytest.mark.parametrize(
    "rule", [rules.momentum(RATE, 0.0), rules.nesterov(RATE, 0.0), rules.sgd(RATE, momentum=0.0)]
)
def test_without_memory_every_step_is_gradient_descent(rule):
    state = rule.init(GRAD)
    for grad in (GRAD, -2 * GRAD, 3 * GRAD):
        updates, state = rule.update(grad, state)
        np.testing.assert_array_equal(updates, -RATE * grad)


@pytest.mark.parametrize(
    "rule",
    [rules.adagrad(RATE, 0.0, eps=0.0), rules.rmsprop(RATE, eps=0.0), rules.adam(RATE, eps=0.0)],
)
def test_without_eps_a_parameter_without_gradient_stays(rule):
    assert first_step(rule)[2] == 0


def test_weight_decay_is_outside_the_division():
    step = first_step(rules.adamw(RATE, weight_decay=0.5))
    expected = first_step(rules.adam(RATE)) - RATE * 0.5 * GRAD
    np.testing.assert_allclose(step, expected, rtol=1e-12)
