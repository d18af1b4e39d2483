"""Back-propagation examples worked by hand, to the digits printed in texts.

Every number is had three ways: from the texts, from fnn, and from the formulas of back-propagation
in NumPy below, with delta = dE/da:

    delta_o = (o - t) o (1 - o)
    delta_h = (delta_o W2^T) h (1 - h)
    dE/dW2 = h^T delta_o,  dE/db2 = delta_o,  dE/dW1 = x^T delta_h,  dE/db1 = delta_h
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnn import Objective, layers, losses, rules


class Weights(NamedTuple):
    W1: np.ndarray
    b1: np.ndarray
    W2: np.ndarray
    b2: np.ndarray


class Pass(NamedTuple):
    hidden: np.ndarray
    outputs: np.ndarray
    value: float
    grad: Weights


def by_hand(w, x, t):
    """One example forward and backward through a logistic network with one hidden layer."""
    h = 1 / (1 + np.exp(-(x @ w.W1 + w.b1)))
    o = 1 / (1 + np.exp(-(h @ w.W2 + w.b2)))
    delta_o = (o - t) * o * (1 - o)
    delta_h = (delta_o @ w.W2.T) * h * (1 - h)
    grad = Weights(np.outer(x, delta_h), delta_h, np.outer(h, delta_o), delta_o)
    return Pass(h, o, 0.5 * np.sum((o - t) ** 2), grad)


def network(start):
    """The same network as layers, started from given weights: objective and parameters."""

    def given(numbers):
        return lambda _key, _shape, _dtype: jnp.asarray(numbers)

    model = layers.serial(
        layers.dense(start.W1.shape[1], weight=given(start.W1), bias=given(start.b1)),
        layers.elementwise(jax.nn.sigmoid),
        layers.dense(start.W2.shape[1], weight=given(start.W2), bias=given(start.b2)),
        layers.elementwise(jax.nn.sigmoid),
    )
    params = model.init(jax.random.key(0), jnp.zeros(start.W1.shape[0]))
    return Objective(model.apply, losses.half_squared_error), params


def weights_of(params):
    b1, W1, b2, W2 = jax.tree.leaves(params)  # dicts are flattened by the alphabet
    return Weights(W1, b1, W2, b2)


def one_example(x, t):
    return jnp.array([x]), jnp.array([t])


def assert_same(params, weights):
    for ours, exact in zip(weights_of(params), weights, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12)


def assert_printed(value, digits, *, last=0.5):
    """`value` is what is printed, to half a unit (or `last` units) of the last digit."""
    for number, printed in zip(np.ravel(value), digits.split(), strict=True):
        unit = 10.0 ** -len(printed.partition(".")[2])
        assert abs(number - float(printed)) <= 1.000001 * last * unit, (number, printed)


# --- the 2-2-1 network of the lectures: all weights and biases 0.1, rate 0.2, momentum 0.9 ---

ALL_TENTHS = Weights(np.full((2, 2), 0.1), np.full(2, 0.1), np.full((2, 1), 0.1), np.full(1, 0.1))
FIRST = np.array([1.0, 0.0]), np.array([0.9])
SECOND = np.array([0.0, 1.0]), np.array([-0.3])


def test_two_examples_with_momentum():
    objective, params = network(ALL_TENTHS)
    rule = rules.momentum(0.2, 0.9)
    state = rule.init(params)
    weights, velocity = ALL_TENTHS, Weights(*(np.zeros_like(w) for w in ALL_TENTHS))
    printed = (  # hidden, outputs, -delta_o, -delta_h; then W2, b2, W1 (by sender), b1
        (
            ".549834 .549834 .5522997 .0859740 .0021280 .0021280",
            ".1094543 .1094543 .1171948 .1004256 .1004256 .1 .1 .1004256 .1004256",
        ),
        (
            ".549939338110 .549939338110 .559117498738 -.211776863274 "
            "-.005737162277 -.005737162277",
            ".094670262226 .094670262226 .090314756724 .100808639845 .100808639845 "
            ".098852567545 .098852567545 .099661207390 .099661207390",
        ),
    )
    step = jax.jit(jax.value_and_grad(lambda params, value_fn: value_fn(params)))
    for (x, t), (before, after) in zip((FIRST, SECOND), printed, strict=True):
        exact = by_hand(weights, x, t)
        velocity = Weights(*(0.9 * v - 0.2 * g for v, g in zip(velocity, exact.grad, strict=True)))
        weights = Weights(*(w + v for w, v in zip(weights, velocity, strict=True)))

        value, grad = step(params, objective.on(one_example(x, t)))
        np.testing.assert_allclose(value, exact.value, rtol=0, atol=1e-12)
        np.testing.assert_allclose(objective.outputs(params, x[None])[0], exact.outputs, atol=1e-12)
        assert_same(grad, exact.grad)
        g = weights_of(grad)
        forward_and_backward = (exact.hidden, exact.outputs, -g.b2, -g.b1)
        assert_printed(np.concatenate(forward_and_backward), before)

        updates, state = rule.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        assert_same(params, weights)
        w = weights_of(params)
        assert_printed(np.concatenate([w.W2[:, 0], w.b2, w.W1.ravel(), w.b1]), after)

    test = objective.outputs(params, jnp.ones((1, 2)))
    assert_printed(test, ".549598508781")
    w = weights_of(params)
    np.testing.assert_array_equal(w.W1[:, 0], w.W1[:, 1])  # equal starts stay equal


def test_one_step_descends_and_with_the_sign_slipped_climbs():
    objective, params = network(ALL_TENTHS)
    value_fn = objective.on(one_example(*FIRST))
    rule = rules.sgd(0.2)
    value, grad = jax.value_and_grad(value_fn)(params)
    updates, _ = rule.update(grad, rule.init(params), params)
    assert_printed(value, ".060447749")
    assert_printed(value_fn(optax.apply_updates(params, updates)), ".058098502")
    slipped = optax.apply_updates(params, jax.tree.map(jnp.negative, updates))
    assert_printed(value_fn(slipped), ".062849859")
    w = weights_of(slipped)
    assert_printed([w.b2[0], w.W2[0, 0], w.b1[0]], ".0828 .0905 .0996")


def test_the_rounded_numbers_of_the_lectures_need_the_biases():
    without = ALL_TENTHS._replace(b1=np.zeros(2), b2=np.zeros(1))
    for start, printed in ((ALL_TENTHS, ".55 .552"), (without, ".525 .526")):
        objective, params = network(start)
        outputs = objective.outputs(params, FIRST[0][None])[0]
        exact = by_hand(start, *FIRST)
        np.testing.assert_allclose(outputs, exact.outputs, rtol=0, atol=1e-12)
        assert_printed([exact.hidden[0], outputs[0]], printed)


# --- Mazur, "A step by step backpropagation example" (2015): 2-2-2, rate 0.5, biases stay ---

MAZUR = Weights(
    np.array([[0.15, 0.25], [0.20, 0.30]]),
    np.full(2, 0.35),
    np.array([[0.40, 0.50], [0.45, 0.55]]),
    np.full(2, 0.60),
)
INPUTS, TARGETS = np.array([0.05, 0.10]), np.array([0.01, 0.99])


def stepped(weights, grad):
    return Weights(*(w - 0.5 * g for w, g in zip(weights, grad, strict=True)))


def mazur_rounds(*, hidden_deltas_first):
    """Error before each of 10,001 rounds in NumPy, and the last outputs.

    `hidden_deltas_first=False` is the slip behind some numbers of the post: hidden deltas from
    output weights that have been updated already.
    """
    weights, values = MAZUR, []
    for _ in range(10_001):
        now = by_hand(weights, INPUTS, TARGETS)
        values.append(now.value)
        W2 = weights.W2 - 0.5 * now.grad.W2
        used = weights.W2 if hidden_deltas_first else W2
        delta_h = (now.grad.b2 @ used.T) * now.hidden * (1 - now.hidden)
        weights = weights._replace(W1=weights.W1 - 0.5 * np.outer(INPUTS, delta_h), W2=W2)
    return np.array(values), now.outputs


def weights_only(grad):
    return jax.tree.map(lambda g: g if g.ndim == 2 else jnp.zeros_like(g), grad)


def test_mazur_first_round():
    objective, params = network(MAZUR)
    value_fn = objective.on(one_example(INPUTS, TARGETS))
    exact = by_hand(MAZUR, INPUTS, TARGETS)
    value, grad = jax.value_and_grad(value_fn)(params)
    np.testing.assert_allclose(value, exact.value, rtol=0, atol=1e-12)
    assert_same(grad, exact.grad)

    assert_printed(exact.hidden, ".593269992 .596884378")
    outputs = objective.outputs(params, INPUTS[None])[0]
    assert_printed(outputs, ".75136507 .772928465")
    assert_printed(outputs, ".75136507 .77292847")
    assert_printed(0.5 * (outputs - TARGETS) ** 2, ".274811083 .023560026")
    assert_printed([value, value], ".298371109 .298371108760")
    g = weights_of(grad)
    assert_printed(g.b2, ".138498562 -.038098236", last=1)  # the post cuts, here
    assert_printed(g.b2, ".13849856 -.03809824")
    assert_printed([g.W2[0, 0], g.W2[0, 0]], ".082167041 .08216704056")
    assert_printed([g.W1[0, 0], g.W1[0, 0]], ".000438568 .0004385677")

    rule = rules.sgd(0.5)
    updates, _ = rule.update(weights_only(grad), rule.init(params), params)
    after = weights_of(optax.apply_updates(params, updates))
    w5_to_w8, w1_to_w4 = after.W2.T, after.W1.T
    assert_printed(w5_to_w8, ".35891648 .408666186 .511301270 .561370121")
    assert_printed(w5_to_w8, ".3589164797 .4086661861 .5113012702 .5613701211")
    assert_printed(w1_to_w4, ".149780716 .19956143 .24975114 .29950229")
    assert_printed(w1_to_w4, ".1497807161 .1995614323 .2497511436 .2995022873")
    np.testing.assert_array_equal(after.b1, MAZUR.b1)

    trained, _ = rule.update(grad, rule.init(params), params)
    trained = optax.apply_updates(params, trained)
    assert_same(trained, stepped(MAZUR, exact.grad))
    assert_printed(weights_of(trained).b2, ".53075072 .61904912")
    assert_printed(weights_of(trained).b1, ".34561432 .34502287")


def test_mazur_ten_thousand_rounds():
    objective, start = network(MAZUR)
    value_fn = objective.on(one_example(INPUTS, TARGETS))
    rule = rules.sgd(0.5)

    def round_(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(weights_only(grad), state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(round_, (start, rule.init(start)), length=10_000)
    outputs = objective.outputs(params, INPUTS[None])[0]
    last = value_fn(params)

    exact, exact_outputs = mazur_rounds(hidden_deltas_first=True)
    np.testing.assert_allclose([*values, last], exact, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(outputs, exact_outputs, rtol=0, atol=1e-12)

    assert_printed(values[1], ".291027773694")
    assert_printed([1e5 * last, 1e5 * values[9999]], "3.5101878 3.5108548")
    assert_printed(outputs, ".01591362 .98406427")
    # the post's own numbers: its "0.0000351085" is one round earlier, ...
    assert_printed(values[9999], ".0000351085")
    np.testing.assert_allclose(values[1], 0.291027924, atol=1e-6)
    np.testing.assert_allclose(last, 0.000035085, atol=1e-6)
    # ... and the others come from hidden deltas that used updated weights
    slipped, slipped_outputs = mazur_rounds(hidden_deltas_first=False)
    assert_printed([slipped[1], slipped[1]], ".291027924 .291027923905")
    assert_printed([slipped[10_000], 1e5 * slipped[10_000]], ".000035085 3.5084786")
    assert_printed(slipped_outputs, ".015912196 .984065734")
