"""Stacks, pools that remember, transposed convolutions, states and positions, against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import layers, losses, programs, rules
from fnn.curvature import capture, gram, structure


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((1, 0), (0, 2))])
@pytest.mark.parametrize("strides", [1, 2, (2, 3)])
def test_a_transposed_convolution_is_the_adjoint(padding, strides, random):
    down = layers.conv(3, (3, 2), strides=strides, padding=padding, bias=None)
    up = layers.conv_transpose(2, (3, 2), strides=strides, padding=padding, bias=None)
    kernel, y = random(0, 3, 2, 2, 3), random(1, 3, 4, 3)
    flipped = {"weight": kernel.swapaxes(-1, -2)}
    back = up.apply(flipped, y)
    x = random(2, *back.shape)
    there = down.apply({"weight": kernel}, x)
    assert there.shape == y.shape
    np.testing.assert_allclose(np.vdot(there, y), np.vdot(x, back), rtol=1e-12)


@pytest.mark.parametrize(
    ("strides", "padding"), [(None, "VALID"), ((1, 2), "SAME"), (3, ((1, 1), (0, 1)))]
)
def test_a_pool_remembers_where_and_unpooling_is_its_transpose(strides, padding, random):
    x = np.round(random(3, 7, 6, 2))  # with ties
    pool = layers.max_pool_indices((3, 2), strides=strides, padding=padding)
    values, indices = pool.apply((), x)
    expected = layers.max_pool((3, 2), strides=strides, padding=padding).apply((), x)
    np.testing.assert_array_equal(values, expected)
    for i, v in zip(indices.reshape(-1, 2), values.reshape(-1, 2), strict=True):
        np.testing.assert_array_equal(x.reshape(-1, 2)[i, np.arange(2)], v)
    v = random(4, *values.shape)
    taken = np.take_along_axis(x.reshape(-1, 2), np.asarray(indices).reshape(-1, 2), 0)
    np.testing.assert_allclose(
        np.vdot(layers.unpool(v, indices, (7, 6)), x), np.vdot(v.reshape(-1, 2), taken)
    )


def test_the_first_of_equal_values_is_taken():
    _, indices = layers.max_pool_indices((2,), strides=1, padding=1).apply((), jnp.zeros((3, 1)))
    assert indices.ravel().tolist() == [0, 0, 1, 2]


def test_a_scan_goes_on_where_another_stopped(random, drawn):
    x = random(5, 6, 3)
    layer = layers.scan_from(layers.lstm(2))
    params = drawn(layer, (None, x))
    state, first = layer.apply(params, (None, x[:4]))
    state, rest = layer.apply(params, (state, x[4:]))
    end, whole = layer.apply(params, (None, x))
    np.testing.assert_allclose(np.concatenate([first, rest]), whole, rtol=1e-12)
    np.testing.assert_allclose(state, end, rtol=1e-12)
    same, none = layer.apply(params, (state, x[:0]))
    np.testing.assert_array_equal(same, state)
    assert none.shape == (0, 2)


def test_both_directions_stand_side_by_side(random, drawn):
    x = random(6, 5, 3)
    cell = layers.gru(2)
    params = drawn(layers.scan_over(cell), x)
    both = layers.bidirectional(cell, cell).apply((params, params), x)
    ahead = layers.scan_over(cell).apply(params, x)
    back = layers.scan_over(cell).apply(params, x[::-1])[::-1]
    np.testing.assert_allclose(both, np.concatenate([ahead, back], 1), rtol=1e-12)


def test_positions_are_those_of_the_paper(random):
    x = random(7, 5, 3)
    expected = [
        [(np.sin, np.cos)[j % 2](p / 1e4 ** (2 * (j // 2) / 3)) for j in range(3)] for p in range(5)
    ]
    got = layers.sinusoidal_positions().apply((), x)
    np.testing.assert_allclose(got, x + np.array(expected), rtol=1e-12)


def test_a_stack_is_its_layers_one_after_another():
    layer, x = layers.serial(layers.dense(4), layers.elementwise(jnp.tanh)), jnp.ones(4)
    one, many = layers.stack(layer, 3), layers.serial(layer, layer, layer)
    key = jax.random.key(0)
    stacked, apart = one.init(key, x), many.init(key, x)
    for i, part in enumerate(apart):
        for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(part), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-14)
    np.testing.assert_allclose(one.apply(stacked, x), many.apply(apart, x), rtol=1e-13)


def test_kfac_and_the_gram_matrix_of_a_stack_are_those_of_its_layers(random):
    """Both steps to 1e-12, and no more flops than the layers apart."""
    layer, x = layers.serial(layers.dense(4), layers.elementwise(jnp.tanh)), random(8, 6, 4)
    y = random(9, 6, 4)
    many = layers.serial(layer, layer, layer)
    apart = many.init(jax.random.key(0), x[0])
    together = jax.tree.map(lambda *parts: jnp.stack(parts), *apart)

    def step(model, params):
        known = structure(model.apply, params, x[0])
        value_fn = fnn.Objective(model.apply, losses.half_squared_error).on((x, y))
        rule = rules.kfac(known, damping=0.1)
        value, grad = jax.value_and_grad(value_fn)(params)
        state = rule.init(params)
        more = {"value": value, "grad": grad, "value_fn": value_fn}
        return rule.update(grad, state, params, **more)[0]

    def matrix(model, params):
        return gram(capture(model.apply, params, x))

    one = layers.stack(layer, 3)
    assert {leaf.matrix for leaf in structure(one.apply, together, x[0]).leaves} == {
        (3, 4, 4),
        (3, 1, 4),
    }
    got, expected = jax.jit(lambda p, q: (step(one, p), step(many, q)))(together, apart)
    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(*(matrix(m, p) for m, p in ((one, together), (many, apart))))
    flops = [
        programs.count(lambda p, m=m: matrix(m, p), p) for m, p in ((one, together), (many, apart))
    ]
    assert flops[0] <= flops[1]
