"""What regularizers do where it can be computed by hand: ridge, lasso, dropout, early stopping."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Objective, layers, losses, rules

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(40, 3)), RNG.normal(size=40)
LINEAR = Objective(lambda w, x: w @ x, losses.half_squared_error)


def test_weight_decay_is_ridge_and_shrinks_weights_in_every_step():
    weight, rate = 0.3, 0.1
    objective = LINEAR + fnn.l2(weight)
    params = fnn.fit(rules.levenberg_marquardt(), objective, jnp.zeros(3), (X, T), steps=20).params
    ridge = np.linalg.solve(X.T @ X / 40 + weight * np.eye(3), X.T @ T / 40)
    np.testing.assert_allclose(params, ridge, atol=1e-9)
    start = jnp.array([1.0, -2.0, 3.0])
    step = fnn.fit(rules.sgd(rate), objective, start, (X, T), steps=1).params
    plain = start - rate * jax.grad(LINEAR.on((X, T)))(start)
    np.testing.assert_allclose(step, plain - rate * weight * start)


def test_the_lasso_makes_weights_exactly_zero_at_its_optimum():
    """On orthonormal inputs it is a soft threshold, w = sign(b) max(|b| - weight, 0)."""
    basis, _ = np.linalg.qr(RNG.normal(size=(40, 4)))
    inputs, best = basis * 40**0.5, np.array([2.0, -0.05, 0.5, -1.0])
    value_fn = LINEAR.on((inputs, inputs @ best)) + fnn.l1(0.2)
    threshold = np.sign(best) * np.maximum(np.abs(best) - 0.2, 0)
    for way in itertools.product([-1e-3, 0, 1e-3], repeat=4):
        assert value_fn(jnp.asarray(threshold)) <= value_fn(jnp.asarray(threshold + way))
    small, large = (jax.grad(fnn.l1(0.2))(jnp.array([w]))[0] for w in (1e-6, 10.0))
    np.testing.assert_allclose([small, large], 0.2)  # a constant pull, where weight decay's fades


def test_dropout_is_a_mean_over_all_thinned_networks_that_share_weights():
    """On a linear layer exactly: 2^4 masks, each unit KEPT with probability 0.8."""
    w, x = RNG.normal(size=4), RNG.normal(size=4)
    mean = 0.0
    for mask in itertools.product([0, 1], repeat=4):
        likely = np.prod([0.8 if kept else 0.2 for kept in mask])
        mean += likely * (w @ (x * mask / 0.8))
    model = layers.serial(layers.dropout(1 - 0.8), layers.dense(1, bias=None))
    params = ((), {"weight": jnp.asarray(w)[:, None]})
    np.testing.assert_allclose(model.apply(params, jnp.asarray(x))[0], mean)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda key: model.apply(params, jnp.asarray(x), key=key)[0])(keys)
    assert len(np.unique(np.round(drawn, 9))) == 16
    np.testing.assert_allclose(drawn.mean(), mean, atol=5 * drawn.std() / len(keys) ** 0.5)


def test_a_fresh_mask_for_every_example_and_the_lectures_0_8_is_kept():
    model = layers.serial(layers.dropout(0.2), layers.dense(64, bias=None))
    params = ((), {"weight": jnp.eye(64)})
    seen = Objective(model.apply, lambda y, t: jnp.mean((y == 0) * t))
    x = jnp.ones((500, 64))
    assert seen.on((x, x), key=jax.random.key(0))(params) == pytest.approx(0.2, abs=0.01)
    outputs = jax.vmap(lambda x, key: model.apply(params, x, key=key))(
        x, jax.random.split(jax.random.key(1), 500)
    )
    assert len(np.unique(np.asarray(outputs), axis=0)) > 490


def test_early_stopping_returns_the_best_parameters_of_an_overfit():
    """Twelve noisy points, 20 tanh units: the validation loss falls, then rises."""
    x = np.linspace(-1, 1, 60)[:, None]
    t = np.sin(3 * x) + 0.4 * RNG.normal(size=x.shape)
    few, rest = (x[::5], t[::5]), (np.delete(x, np.s_[::5], 0), np.delete(t, np.s_[::5], 0))
    model = layers.serial(layers.dense(20), layers.elementwise(jnp.tanh), layers.dense(1))
    objective = Objective(model.apply, losses.half_squared_error)
    start = jax.jit(model.init)(jax.random.key(0), x[0])
    plan = {"steps": 60, "validation": rest}
    to_the_end = fnn.fit(rules.levenberg_marquardt(), objective, start, few, **plan)
    stopped = fnn.fit(rules.levenberg_marquardt(), objective, start, few, patience=5, **plan)
    losses_seen = to_the_end.history.validation["loss"]
    assert losses_seen[-1] > 1.5 * losses_seen.min()
    best = float(objective.on(rest)(stopped.params))
    assert best == pytest.approx(stopped.history.validation["loss"].min())
    assert best < losses_seen[-1] / 1.5
    assert stopped.stopped == fnn.training.Stop.PATIENCE
