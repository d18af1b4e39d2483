"""Where training starts: symmetry, scale, and what becomes of signals in deep and long networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Objective, diagnostics, initializers, layers, losses, rules

RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 1))


@pytest.mark.parametrize(
    "rule",
    [rules.sgd(0.1), rules.adam(0.1), rules.levenberg_marquardt()],
    ids=["sgd", "adam", "lm"],
)
def test_equal_starts_stay_equal_and_random_ones_break_the_symmetry(rule):
    spread = {}
    for weight in (jax.nn.initializers.constant(0.1), jax.nn.initializers.normal(0.01)):
        dense = layers.dense(4, weight=weight)
        model = layers.serial(dense, layers.elementwise(jnp.tanh), layers.dense(1, weight=weight))
        objective = Objective(model.apply, losses.half_squared_error)
        start = jax.jit(model.init)(jax.random.key(0), INPUTS[0])
        params = fnn.fit(rule, objective, start, (INPUTS, TARGETS), steps=30).params
        assert jnp.abs(params[0]["weight"] - start[0]["weight"]).max() > 1e-2
        spread[weight] = float(jnp.std(params[0]["weight"], axis=1).max())
    equal, random = spread.values()
    assert equal < 1e-9
    assert random > 1e-3


def test_a_unit_with_100_inputs_against_one_with_2():
    """Of weights N(0, 1) its sum has deviation 10 against 1.4; of variance 1/fan_in both have 1."""

    def deviation(initializer, fan_in):
        keys = jax.random.split(jax.random.key(0), 4000)
        weights = jax.vmap(lambda key: initializer(key, (fan_in, 1)))(keys)[..., 0]
        return float(jnp.std(weights @ jnp.ones(fan_in)))

    standard, scaled = jax.nn.initializers.normal(1.0), initializers.lecun_gaussian()
    assert deviation(standard, 100) == pytest.approx(10, rel=0.05)
    assert deviation(standard, 2) == pytest.approx(2**0.5, rel=0.05)
    assert deviation(scaled, 100) == pytest.approx(1, rel=0.05)
    assert deviation(scaled, 2) == pytest.approx(1, rel=0.05)
    # few connections do the same for weights of deviation 1, however many inputs there are
    assert deviation(initializers.sparse(15), 100) == pytest.approx(15**0.5, rel=0.05)
    # 1 / sqrt(fan_in) is a standard deviation: as a variance it would leave 10^(1/2)
    as_variance = jax.nn.initializers.normal(100**-0.25)
    assert deviation(as_variance, 100) == pytest.approx(10**0.5, rel=0.05)
    assert deviation(jax.nn.initializers.normal(100**-0.5), 100) == pytest.approx(1, rel=0.05)


def test_the_starts_of_the_lectures_have_their_deviations():
    shape, key = (400, 100), jax.random.key(0)
    for initializer, deviation in (
        (jax.nn.initializers.normal(0.01), 0.01),
        (initializers.symmetric_uniform(0.05), 0.05 / 3**0.5),
        (initializers.lecun_gaussian(), 400**-0.5),
        (initializers.glorot_gaussian(), (2 / 500) ** 0.5),
    ):
        assert initializer(key, shape).std() == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize(
    ("activation", "variance", "per_layer"),
    [
        ("linear", 1.0, 1.0),
        ("linear", 0.25, 0.5),
        ("linear", 4.0, 2.0),
        ("relu", 2.0, 1.0),
        ("relu", 1.0, 0.5**0.5),
    ],
)
def test_the_scale_of_the_start_decides_whether_signals_vanish_or_explode(
    activation, variance, per_layer
):
    """Weights of variance c / fan_in change signals by sqrt(c) in a layer, rectified by half."""
    depth, width = 10, 200
    weight = jax.nn.initializers.variance_scaling(variance, "fan_in", "normal")
    unit = layers.elementwise(jax.nn.relu if activation == "relu" else lambda x: x)
    model = layers.serial(*[layers.dense(width, weight=weight), unit] * depth)
    x = RNG.normal(size=(20, width))
    params = jax.jit(model.init)(jax.random.key(0), x[0])
    look = jax.jit(diagnostics.signals, static_argnums=(0, 1))
    found = look(model, losses.half_squared_error, params, (x, x))
    outputs = [float(signal.outputs) for name, signal in found.items() if "dense" in name]
    assert (outputs[-1] / outputs[0]) ** (1 / (depth - 1)) == pytest.approx(per_layer, rel=0.1)


def test_large_recurrent_weights_make_chaos():
    """Sompolinsky, Crisanti and Sommers (1988): beyond a gain of 1 neighbors part, below they meet.

    The network runs by itself, h = tanh(W h), W of variance gain^2 / n.
    """
    n = 200
    matrix = jax.random.normal(jax.random.key(0), (n, n)) / n**0.5
    start = jax.random.normal(jax.random.key(1), (n,))

    def distance(gain):
        def step(h, _):
            return jnp.tanh(gain * h @ matrix), None

        ends = [jax.lax.scan(step, h, length=200)[0] for h in (start, start + 1e-8)]
        return float(jnp.linalg.norm(ends[0] - ends[1]))

    assert distance(0.8) < 1e-12
    assert distance(2.0) > 1
