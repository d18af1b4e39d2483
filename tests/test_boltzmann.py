"""Restricted Boltzmann machines against sums over all states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import boltzmann, rules


@functools.cache
def machine(visible, hidden):
    """A machine whose biases are not 0, and inputs."""
    inputs = np.random.default_rng(0).binomial(1, 0.3, (20, visible)).astype(float)
    made = boltzmann.init(jax.random.key(0), inputs, hidden, scale=1.0)
    return made._replace(hidden=jnp.asarray(np.linspace(-1, 1, hidden))), inputs


def energies(made, v, h):
    """Of every visible state with every hidden one."""
    weights, visible, hidden = map(np.asarray, made)
    return -v @ weights @ h.T - (v @ visible)[:, None] - h @ hidden


def states(n):
    """All states of n units."""
    return np.array(list(np.ndindex((2,) * n)), float)


def test_states_are_all_there_are():
    np.testing.assert_array_equal(boltzmann.states(6), states(6))


def test_free_energy_is_a_sum_over_hidden_states():
    made, inputs = machine(64, 6)
    every = np.logaddexp.reduce(-energies(made, inputs, states(6)), axis=1)
    np.testing.assert_allclose(boltzmann.free_energy(made, inputs), -every, atol=1e-10)


def test_conditional_means_are_sums_over_states():
    made, inputs = machine(6, 4)
    hidden, visible = states(4), states(6)
    shares = np.exp(-energies(made, inputs, hidden))
    found = boltzmann.upwards(made, inputs) * shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, shares @ hidden, rtol=1e-10)
    shares = np.exp(-energies(made, visible, hidden)).T
    found = boltzmann.downwards(made, hidden) * shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, shares @ visible, rtol=1e-10)


def test_log_likelihood_is_a_sum_over_all_states():
    made, inputs = machine(6, 4)
    hidden, visible = states(4), states(6)
    everything = np.logaddexp.reduce(-energies(made, visible, hidden), axis=None)
    logs = np.logaddexp.reduce(-energies(made, inputs, hidden), axis=1) - everything
    np.testing.assert_allclose(boltzmann.log_likelihood(made, inputs), logs.mean(), atol=1e-10)


def test_contrast_is_nothing_on_average_where_data_are_the_machine():
    """A Gibbs step leaves the machine's own distribution as it is; of other data it does not."""
    made, inputs = machine(6, 4)
    every = states(6)
    own = np.exp(-energies(made, every, states(4))).sum(axis=1)
    drawn = every[np.random.default_rng(2).choice(64, 100_000, p=own / own.sum())]
    contrast = jax.jit(boltzmann.contrast)
    at_rest, away = (contrast(made, v, jax.random.key(3)) for v in (drawn, inputs))
    for rest, moved in zip(at_rest, away, strict=True):
        assert jnp.abs(rest).max() < 0.01
        assert jnp.abs(moved).max() > 0.03


def test_training_raises_the_likelihood_and_watches():
    """CD-1 by any first-order rule; what is watched has a row before each epoch and at the end."""
    inputs = np.repeat([[1.0, 1, 0], [0, 0, 1]], 10, axis=0)
    start = boltzmann.init(jax.random.key(1), inputs, 4)
    watch = functools.partial(boltzmann.log_likelihood, v=inputs)
    plan = {"epochs": 200, "key": jax.random.key(2), "watch": watch, "batch_size": 4}
    for rule in (rules.sgd(0.3), rules.adam(0.03)):
        trained, seen = boltzmann.train(rule, start, inputs, **plan)
        assert seen.shape == (201,)
        assert seen[0] == pytest.approx(float(watch(start)))
        assert seen[-1] == pytest.approx(float(watch(trained)))
        assert seen[-1] > seen[0] + 0.3
    same, _ = boltzmann.train(rules.sgd(0.3), start, inputs, epochs=0, key=jax.random.key(2))
    np.testing.assert_array_equal(same.weights, start.weights)


def test_bits_and_bytes_are_learned_as_numbers_are():
    _, inputs = machine(6, 4)
    starts = [boltzmann.init(jax.random.key(0), x, 2) for x in (inputs, inputs > 0.5)]
    for other in (inputs > 0.5, inputs.astype("uint8")):
        start = boltzmann.init(jax.random.key(0), other, 2)
        assert start.weights.dtype == starts[0].weights.dtype
        np.testing.assert_array_equal(start.visible, starts[0].visible)
    assert boltzmann.init(jax.random.key(0), inputs.astype("float32"), 2).weights.dtype == "float32"


def test_no_units_have_one_state():
    assert boltzmann.states(0).shape == (1, 0)


def test_mistakes_say_what_to_try():
    key, (made, inputs) = jax.random.key(0), machine(6, 4)
    plan = {"epochs": 1, "key": key}
    mistakes = {
        r"init: expected inputs of shape": lambda: boltzmann.init(key, inputs[0], 3),
        r"init: expected inputs in \[0, 1\], got -1": lambda: boltzmann.init(key, -inputs, 3),
        r"init: expected inputs in \[0, 1\], got nan": lambda: boltzmann.init(
            key, np.nan * inputs, 3
        ),
        r"init: expected at least 1 hidden unit, .*got 0": lambda: boltzmann.init(key, inputs, 0),
        r"states: expected at most 20 units": lambda: boltzmann.states(21),
        r"train: expected examples of 6 visible": lambda: boltzmann.train(
            rules.sgd(0.1), made, inputs[:, :5], **plan
        ),
        r"train: expected a batch_size of 1 to 20": lambda: boltzmann.train(
            rules.sgd(0.1), made, inputs, **plan, batch_size=21
        ),
        r"train: expected epochs to be a whole number of at least 0": lambda: boltzmann.train(
            rules.sgd(0.1), made, inputs, epochs=-1, key=key
        ),
    }
    for message, mistake in mistakes.items():
        with pytest.raises(ValueError, match=message):
            mistake()
