"""Attention: masks, and the precision of its scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import layers


def test_hiding_a_position_of_memory_is_leaving_it_out(random, drawn):
    x, memory = random(0, 5, 8), random(1, 7, 6)
    layer = layers.multi_head_attention(2)

    @jax.jit
    def both(params):
        present = jnp.arange(7) < 4
        return layer.apply(params, (x, memory, present)), layer.apply(params, (x, memory[:4]))

    hidden, left_out = both(drawn(layer, (x, memory)))
    np.testing.assert_allclose(hidden, left_out, rtol=1e-12)


def test_masks_are_functions_of_two_positions(random, drawn):
    """A window of one leaves the values, so that positions do not mix."""
    x = random(2, 5, 4)
    layer = layers.multi_head_attention(2, mask=lambda i, j: abs(i - j) < 1)
    alone = layers.each(
        layers.Layer(lambda *_: (), lambda p, x, *, key=None: layer.apply(p, x[None], key=key)[0])
    )
    params = drawn(layer, x)
    both = jax.jit(lambda params: (layer.apply(params, x), alone.apply(params, x)))
    np.testing.assert_allclose(*both(params), rtol=1e-12)


def test_the_future_does_not_reach_the_past(random, drawn):
    x = random(3, 5, 4)
    layer = layers.multi_head_attention(2, mask=layers.causal)
    params = drawn(layer, x)
    jacobian = jax.jit(jax.jacrev(lambda x: layer.apply(params, x).sum(axis=1)))(x)
    reached = np.abs(jacobian).sum(axis=-1) > 0
    np.testing.assert_array_equal(reached, np.tri(5, dtype=bool))


@pytest.mark.parametrize(
    "positions", [layers.sinusoidal_positions(), layers.learned_positions(7)], ids=lambda p: p.name
)
def test_a_decoder_sees_its_past_and_the_order_of_its_memory(positions, random, drawn):
    """Positions, causal attention, cross attention: without positions memory is a set."""
    x, memory, order = random(7, 5, 4), random(8, 6, 4), np.array([3, 1, 5, 0, 2, 4])
    own, cross = layers.multi_head_attention(2, mask=layers.causal), layers.multi_head_attention(2)
    params = drawn(positions, memory), drawn(own, x), drawn(cross, (x, memory))

    def decoder(params, x, memory, placed):
        places, ahead, across = params
        if placed:
            x, memory = (positions.apply(places, part) for part in (x, memory))
        h = x + own.apply(ahead, x)
        return h + cross.apply(across, (h, memory))

    @jax.jit
    def ask(params):
        answers = [
            [decoder(params, x, memory, placed), decoder(params, x, memory[order], placed)]
            for placed in (False, True)
        ]
        return answers, decoder(params, x[:3], memory, placed=True)

    ((as_set, mixed_set), (placed, mixed)), past = ask(params)
    np.testing.assert_allclose(past, placed[:3], rtol=1e-12)
    np.testing.assert_allclose(mixed_set, as_set, rtol=1e-12)
    assert np.max(np.abs(mixed - placed)) > 1e-2 * np.max(np.abs(placed))
    assert np.max(np.abs(as_set - placed)) > 1e-2 * np.max(np.abs(placed))


def test_a_position_that_sees_nothing_gets_zeros_and_finite_gradients(random):
    arrays = random(4, 2, 3), random(5, 4, 3), random(6, 4, 3)
    mask = np.array([[True, True, False, False], [False] * 4])

    @jax.jit
    def outputs_and_grads(*arrays):
        def outputs(*arrays):
            return layers.scaled_dot_product_attention(*arrays, mask)

        return outputs(*arrays), jax.jacrev(outputs, (0, 1, 2))(*arrays)

    outputs, grads = outputs_and_grads(*arrays)
    assert np.all(outputs[1] == 0)
    for grad in grads:
        assert np.all(np.isfinite(grad))
        assert np.any(grad[0] != 0)
        assert np.all(grad[1] == 0)


def test_scores_of_bfloat16_are_taken_in_float32():
    """Products near 1000 are 4 or 8 apart in bfloat16: scores of 1000 and 1001 would be equal."""
    queries, keys = jnp.ones((1, 2), jnp.bfloat16), jnp.array([[1000, 0], [1000, 2]], jnp.bfloat16)
    values = jnp.eye(2, dtype=jnp.bfloat16)
    outputs = layers.scaled_dot_product_attention(queries, keys, values)
    expected = jax.nn.softmax(jnp.array([0.0, 2.0]) / np.sqrt(2))
    np.testing.assert_allclose(outputs[0].astype(float), expected, atol=4e-3)
    assert outputs.dtype == jnp.bfloat16
