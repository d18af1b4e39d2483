"""Signals and gradients by layer, against derivatives taken otherwise, and what they tell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, layers, losses
from fnn.diagnostics import signals
from fnn.initializers import he_gaussian, lecun_gaussian

RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(RNG.normal(size=(30, 20)))
LOSS = losses.half_squared_error


def stack(depth, activation, *, weight=None, width=20, wrap=lambda layer: layer):
    """`depth` times a dense layer and an activation."""
    weight = lecun_gaussian() if weight is None else weight
    parts = [
        wrap(layers.serial(layers.dense(width, weight=weight), layers.elementwise(activation)))
        for _ in range(depth)
    ]
    return layers.serial(*parts)


@functools.partial(jax.jit, static_argnums=0)
def look(model, params, examples):
    return signals(model, LOSS, params, examples)


@functools.cache
def seen(name, depth=12):
    """Signals of the dense layers of a deep network, from the inputs on."""
    model = {
        "logistic": stack(depth, jax.nn.sigmoid),
        "relu": stack(depth, jax.nn.relu, weight=he_gaussian()),
        "linear, small": stack(depth, lambda x: x, weight=_scaled(0.5)),
        "linear, large": stack(depth, lambda x: x, weight=_scaled(2.0)),
        "logistic, residual": stack(depth, jax.nn.sigmoid, wrap=layers.residual),
    }[name]
    params = jax.jit(model.init)(jax.random.key(1), INPUTS[0])
    found = look(model, params, (INPUTS, 0 * INPUTS))
    return [signal for name, signal in found.items() if "dense" in name]


def _scaled(gain):
    return jax.nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def test_signals_are_derivatives():
    """Of a residual network with positions: in the parameters and, moved by a bias, in outputs."""
    inner = layers.serial(layers.dense(4), layers.elementwise(jnp.tanh))
    model = layers.serial(layers.each(layers.residual(inner)), layers.flatten(), layers.dense(3))
    x, t = jnp.asarray(RNG.normal(size=(7, 5, 4))), jnp.asarray(RNG.normal(size=(7, 3)))
    params = jax.jit(model.init)(jax.random.key(0), x[0])
    found = look(model, params, (x, t))
    assert list(found) == ["0 dense(4)", "1 elementwise(tanh)", "2 flatten", "3 dense(3)"]

    @jax.jit
    def ask(params):
        grads = jax.grad(Objective(model.apply, LOSS).on((x, t)))(params)
        norms = optax.tree.norm(grads[0][0]), optax.tree.norm(grads[2])
        return norms, jax.vmap(model.apply, (None, 0))(params, x)

    (first, last), outputs = ask(params)
    outputs = np.asarray(outputs)
    np.testing.assert_allclose(found["0 dense(4)"].grad, first, rtol=1e-12)
    np.testing.assert_allclose(found["3 dense(3)"].grad, last, rtol=1e-12)
    assert found["2 flatten"].grad == 0

    t, weight = np.asarray(t), np.asarray(params[2]["weight"])
    np.testing.assert_allclose(found["3 dense(3)"].outputs, np.sqrt(np.mean(outputs**2)))
    np.testing.assert_allclose(found["3 dense(3)"].deltas, np.sqrt(np.mean((outputs - t) ** 2)))
    into = (outputs - t) @ weight.T  # what the flattened units get back
    np.testing.assert_allclose(found["2 flatten"].deltas, np.sqrt(np.mean(into**2)))


def test_dead_units_are_those_that_never_learn_and_leaky_ones_do():
    """Two of four rectified units are never active, one for half of the examples."""
    weight = jnp.array([[1.0, -1.0, 1.0, 1.0]])
    x = jnp.array([[1.0], [2.0], [3.0], [4.0]])
    params = (
        {"weight": weight, "bias": jnp.array([0.0, 0.0, -9.0, -2.5])},
        (),
        {"weight": jnp.ones((4, 1)), "bias": jnp.zeros(1)},
    )
    for activation, dead, inactive in (
        (jax.nn.relu, 0.5, 10 / 16),
        (functools.partial(jax.nn.leaky_relu, negative_slope=0.01), 0, 0),
    ):
        model = layers.serial(layers.dense(4), layers.elementwise(activation), layers.dense(1))
        first = look(model, params, (x, jnp.full((4, 1), -1.0)))["0 dense(4)"]
        assert (first.dead, first.inactive) == (dead, inactive)
    maxout = layers.serial(layers.maxout(2, 2), layers.dense(1))
    params = (params[0], {"weight": jnp.ones((2, 1)), "bias": jnp.zeros(1)})
    first = look(maxout, params, (x, jnp.full((4, 1), -9.0)))["0 maxout(2, 2)"]
    assert first.dead == 0


def test_gradients_vanish_or_explode_with_depth_and_the_cures_work():
    ratios = {
        name: float(seen(name)[0].deltas / seen(name)[-1].deltas)
        for name in ("logistic", "relu", "linear, small", "linear, large", "logistic, residual")
    }
    assert ratios["logistic"] < 0.25**11  # the derivative is 1/4 at most
    assert 0.1 < ratios["relu"] < 10
    assert 0.2 < ratios["linear, small"] / 0.5**11 < 5
    assert 0.2 < ratios["linear, large"] / 2**11 < 5
    assert 0.2 < ratios["logistic, residual"] < 10
    grads = [float(signal.grad) for signal in seen("logistic")]
    assert np.all(np.diff(np.log(grads)) > 0)  # the nearer to the inputs, the smaller


def test_gradients_vanish_or_explode_with_time_steps_and_lstm_remembers():
    """The derivative of the last output in the input of each time step."""
    sequence = jnp.asarray(0.1 * RNG.normal(size=(60, 4)))

    def by_step(cell, change=lambda params: params):
        model = layers.serial(layers.scan_over(cell), layers.elementwise(lambda y: y[-1]))
        params = change(jax.jit(model.init)(jax.random.key(0), sequence))
        grad = jax.grad(lambda x: jnp.sum(model.apply(params, x)))(sequence)
        return np.asarray(jnp.linalg.norm(grad, axis=1))

    def radius(size):
        def change(params):
            matrix = params[0]["recurrent"]
            now = np.max(np.abs(np.linalg.eigvals(matrix)))
            return ({**params[0], "recurrent": matrix * size / now}, *params[1:])

        return change

    short = by_step(layers.elman(16), radius(0.5))
    assert short[0] < 1e-12 * short[-1]
    linear = by_step(layers.elman(16, activation=lambda x: x), radius(1.2))
    assert linear[0] > 100 * linear[-1]
    rates = np.log(linear[:30] / linear[10:40]) / 10
    assert np.median(rates) == pytest.approx(np.log(1.2), rel=0.2)

    def open_gates(params):
        return ({**params[0], "bias": params[0]["bias"].at[16:32].set(8.0)}, *params[1:])

    remembered = by_step(layers.lstm(16), open_gates)
    assert remembered[0] > 0.1 * remembered[-5]
