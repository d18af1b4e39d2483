"""Inputs changed while training: noise as weight decay, attacks within bounds, and defense."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, data, layers, losses, rules
from fnn.perturbations import (
    adversarial,
    augmented,
    fast_gradient_sign,
    projected_gradient,
)

RNG = np.random.default_rng(0)
LINEAR = Objective(lambda w, x: w @ x, losses.half_squared_error)


def test_augmented_models_change_inputs_in_training_alone():
    def model(w, x, *, key=None):
        return (w * x, None if key is None else jax.random.uniform(key))

    changed = augmented(model, lambda key, x: x + jax.random.uniform(key))
    outputs, drawn = changed(2.0, 1.0, key=jax.random.key(0))
    assert (changed(2.0, 1.0)[0], changed(2.0, 1.0)[1]) == (2.0, None)
    assert drawn != outputs / 2 - 1  # the model's key is its own
    assert Objective(changed).takes_key
    plain = augmented(lambda w, x: w * x, lambda key, x: x + jax.random.uniform(key))
    value_fn = Objective(plain).on(jnp.ones(5), key=jax.random.key(1))
    assert value_fn(1.0) > 0.6
    np.testing.assert_allclose(Objective(plain).on(jnp.ones(5))(1.0), 0.5)


def test_input_noise_is_weight_decay_on_a_linear_model():
    """Bishop (1995): in the mean of draws, stddev^2 |w|^2 / 2 more."""
    x, t, w = RNG.normal(size=(50, 4)), RNG.normal(size=50), jnp.array([1.0, -2.0, 0.5, 3.0])
    noisy = Objective(augmented(LINEAR.model, functools.partial(data.add_noise, stddev=0.3)),
                      LINEAR.loss)  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 2000)
    values = jax.jit(jax.vmap(lambda key: noisy.on((x, t), key=key)(w)))(keys)
    decayed = (LINEAR.on((x, t)) + fnn.l2(0.3**2))(w)
    assert abs(values.mean() - decayed) < 5 * values.std() / len(keys) ** 0.5
    assert decayed - LINEAR.on((x, t))(w) > 10 * values.std() / len(keys) ** 0.5


# --- attacks ---


@pytest.mark.parametrize("make", [fast_gradient_sign, projected_gradient])
def test_a_linear_model_moves_by_eps_times_the_sum_of_sizes(make):
    w, x = jnp.asarray(RNG.normal(size=100)), jnp.asarray(RNG.normal(size=100))
    attack = make(lambda w, x: w @ x + 3.0, lambda y, t: -t * y, 0.01)
    for t in (1.0, -1.0):
        moved = w @ attack(w, x, t) - w @ x
        np.testing.assert_allclose(moved, -t * 0.01 * jnp.abs(w).sum(), rtol=1e-9)
        assert jnp.abs(attack(w, x, t) - x).max() == pytest.approx(0.01)


def test_projected_steps_stay_near_and_within_bounds_and_do_more_harm():
    model = layers.serial(layers.dense(8), layers.elementwise(jnp.tanh), layers.dense(3))
    x = jnp.asarray(RNG.uniform(size=(30, 6)))
    t = jnp.arange(30) % 3
    params = jax.tree.map(lambda p: 3 * p, jax.jit(model.init)(jax.random.key(0), x[0]))
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    reached = {}
    for steps in (1, 20):
        attack = projected_gradient(*_pair(objective), 0.2, steps=steps, bounds=(0, 1))
        worse = jax.jit(jax.vmap(attack, (None, 0, 0)))(params, x, t)
        assert jnp.abs(worse - x).max() <= 0.2 + 1e-12
        assert 0 <= worse.min() < worse.max() <= 1
        reached[steps] = objective.on((worse, t))(params)
    assert reached[20] > reached[1] > objective.on((x, t))(params)
    many = jax.vmap(lambda eps: fast_gradient_sign(*_pair(objective), eps)(params, x[0], t[0]))
    moved = many(jnp.array([0.1, 0.3])) - x[0]  # eps may be traced
    np.testing.assert_allclose(jnp.abs(moved).max(axis=1), [0.1, 0.3])


def _pair(objective):
    return objective.model, objective.loss


def test_an_attack_without_a_slope_moves_nothing():
    attack = fast_gradient_sign(lambda w, x: 0 * w @ x, lambda y, t: y - t, 0.5)
    np.testing.assert_array_equal(attack(jnp.ones(3), jnp.ones(3), 0.0), jnp.ones(3))


def test_adversarial_models_attack_their_share_of_examples_in_training():
    model = adversarial(lambda w, x: w * x, lambda w, x, t: x + w * t, share=0.25)
    value_fn = Objective(model, lambda y, t: y * t).on
    pairs = (jnp.zeros(4000), jnp.ones(4000)), jnp.ones(4000)
    attacked = float(value_fn(pairs, key=jax.random.key(0))(1.0))
    assert attacked == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / 4000))
    assert value_fn(pairs)(1.0) == 0
    # the attack is taken as given: no gradient flows through it
    taken = adversarial(lambda w, x: w + x, lambda w, x, t: x * w + t, share=1.0)
    assert jax.grad(lambda w: taken(w, (2.0, 0.0), key=jax.random.key(0)))(3.0) == 1

    keyed = adversarial(lambda w, x, *, key=None: (w * x, key), lambda w, x, t: w * x + t)
    assert keyed(1.0, (1.0, 1), key=jax.random.key(0))[1] is not None
    assert keyed(1.0, (1.0, 1))[1] is None


def test_adversarial_training_halves_the_error_under_attack_on_digits():
    """Fast gradient sign of 0.1, pixels between 0 and 1; clean accuracy within 2 points."""
    train, test = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    model = layers.serial(layers.dense(64), layers.elementwise(jax.nn.relu), layers.dense(10))
    loss, params = (
        losses.softmax_cross_entropy,
        jax.jit(model.init)(jax.random.key(1), train.inputs[0]),
    )
    attack = fast_gradient_sign(model.apply, loss, 0.1, bounds=(0, 1))
    plan = {"epochs": 40, "batch_size": 64, "key": jax.random.key(2)}
    plain = fnn.fit(rules.adam(3e-3), Objective(model.apply, loss), params, train, **plan)
    robust = Objective(adversarial(model.apply, attack), loss)
    pairs = (train.inputs, train.targets), train.targets
    hardened = fnn.fit(rules.adam(3e-3), robust, params, pairs, **plan)

    @jax.jit
    def errors(params):
        attacked = jax.vmap(attack, (None, 0, 0))(params, *map(jnp.asarray, test))
        answers = [
            jax.vmap(model.apply, (None, 0))(params, x).argmax(axis=-1)
            for x in (test.inputs, attacked)
        ]
        return [jnp.mean(answer != test.targets) for answer in answers]

    clean, under_attack = errors(plain.params)
    clean_after, under_attack_after = errors(hardened.params)
    assert clean < 0.05
    assert abs(clean_after - clean) < 0.02
    assert under_attack_after < under_attack / 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: adversarial(LINEAR.model, None, share=1.5),
            r"expected share in \[0, 1\], got 1.5",
        ),
        (lambda: fast_gradient_sign(*_pair(LINEAR), -0.1), "expected eps >= 0, got -0.1"),
        (lambda: projected_gradient(*_pair(LINEAR), 0.1, steps=0), "expected steps >= 1, got 0"),
        (lambda: projected_gradient(*_pair(LINEAR), 0.1, rate=-1.0), "rate >= 0, got -1.0"),
        (lambda: fast_gradient_sign(*_pair(LINEAR), 0.1, bounds=(1, 0)), r"ascend, got \(1, 0\)"),
        (
            lambda: adversarial(LINEAR.model, None)(1.0, np.ones(3)),
            r"inputs \(x, target\), got a nd",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- clipping is optax's ---


def test_clipped_gradients_do_not_jump_off_a_cliff():
    """Goodfellow, Bengio and Courville (2016), figure 10.17: a step at a cliff, and its clip."""

    def cliff(p):
        return jnp.sum(p**2) / 2 + 50 * jax.nn.sigmoid(200 * (p[0] - 0.5))

    start = jnp.array([0.49, 1.0])
    grad = jax.grad(cliff)(start)
    assert jnp.linalg.norm(grad) > 1000
    clipped = optax.chain(optax.clip_by_global_norm(1.0), rules.sgd(0.1))
    updates, _ = clipped.update(grad, clipped.init(start), start)
    np.testing.assert_allclose(updates, -0.1 * grad / jnp.linalg.norm(grad))
    trained = fnn.fit(clipped, fnn.penalty(cliff), start, steps=200)
    assert jnp.linalg.norm(trained.params) < 1e-3
    jumped = fnn.fit(rules.sgd(0.1), fnn.penalty(cliff), start, steps=1)
    assert jnp.linalg.norm(jumped.params) > 100
