"""Combinators and scans against loops in Python, dropout, the table of a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import flops, layers


def test_combinators_are_what_they_say():
    double, square = (layers.elementwise(f) for f in (lambda x: 2 * x, jnp.square))
    x, y = jnp.array([3.0]), jnp.array([5.0])
    assert layers.serial(double, square).apply(((), ()), x).tolist() == [36]
    assert layers.serial(square, double).apply(((), ()), x).tolist() == [18]
    assert layers.serial().apply((), x) is x
    assert layers.serial().init(jax.random.key(0), x) == ()
    assert [a.item() for a in layers.parallel(double, square).apply(((), ()), (x, y))] == [6, 25]
    assert [a.item() for a in layers.fan_out(double, square).apply(((), ()), x)] == [6, 9]
    assert layers.fan_in_add().apply((), (x, y, y)).tolist() == [13]
    assert layers.fan_in_concatenate(axis=0).apply((), (x, y)).tolist() == [3, 5]
    assert layers.residual(square).apply((), x).tolist() == [12]


def test_combinators_take_lists_for_tuples(random, drawn):
    """As a checkpoint may return them."""
    model = layers.serial(layers.dense(3), layers.fan_out(layers.dense(2), layers.serial()))
    x = random(0, 4)
    params = drawn(model, x)
    as_lists = [params[0], list(params[1])]
    apply = jax.jit(model.apply)
    jax.tree.map(np.testing.assert_array_equal, apply(params, x), apply(as_lists, x))


def test_parts_start_from_different_keys():
    """Fed by a layer whose parameter is its key."""
    keys = layers.serial()._replace(init=lambda key, _: jax.random.key_data(key))
    keys = keys._replace(apply=lambda _, x, **_key: x)
    nested = layers.serial(keys, keys)
    for model in (layers.fan_out(keys, nested), layers.serial(keys, nested)):
        drawn = model.init(jax.random.key(0), jnp.ones(3))
        assert len({tuple(key.tolist()) for key in jax.tree.leaves(drawn)}) == 3


def test_each_is_a_loop_with_split_keys(random, drawn):
    layer = layers.serial(layers.dense(3), layers.dropout(0.5))
    x, mapped = random(1, 4, 2), layers.each(layer)

    @jax.jit
    def both(params, x, key):
        keys = jax.random.split(key, 4)
        loop = [layer.apply(params, row) for row in x]
        in_training = [layer.apply(params, row, key=k) for row, k in zip(x, keys, strict=True)]
        return (
            (mapped.apply(params, x), jnp.stack(loop)),
            (mapped.apply(params, x, key=key), jnp.stack(in_training)),
        )

    for outputs, expected in both(drawn(mapped, x), x, jax.random.key(5)):
        np.testing.assert_allclose(outputs, expected, rtol=1e-12)


def test_each_maps_trees(random, drawn):
    x = (random(2, 4, 3), random(3, 4, 2))
    layer = layers.each(layers.parallel(layers.dense(2), layers.serial()))
    first, second = layer.apply(drawn(layer, x), x)
    assert first.shape == (4, 2)
    np.testing.assert_array_equal(second, x[1])


@pytest.mark.parametrize(
    "cell", [layers.elman(3), layers.gru(3), layers.lstm(3)], ids=lambda cell: cell.name
)
def test_scan_is_a_loop(cell, random, drawn):
    x, layer = random(4, 5, 2), layers.scan_over(cell)

    @jax.jit
    def both(params, x):
        state, outputs = cell.start(params, x[0]), []
        for step in x:
            state, output = cell.step(params, state, step)
            outputs.append(output)
        return layer.apply(params, x), jnp.stack(outputs)

    np.testing.assert_allclose(*both(drawn(layer, x), x), rtol=1e-12)


def test_scan_hands_every_step_its_key():
    def step(params, state, x, *, key=None):
        return state, params + x[0] * jax.random.normal(key)

    noise = layers.Cell(init=None, start=lambda *_: jnp.zeros(()), step=step)
    key = jax.random.key(0)
    outputs = layers.scan_over(noise).apply(0.0, jnp.ones((4, 1)), key=key)
    expected = jax.vmap(jax.random.normal)(jax.random.split(key, 4))
    np.testing.assert_array_equal(outputs, expected)


def test_scan_over_no_steps_gives_none(drawn):
    layer = layers.scan_over(layers.lstm(3))
    params = drawn(layer, jnp.ones((5, 2)))
    assert jax.eval_shape(layer.apply, params, jnp.ones((0, 2))).shape == (0, 3)


def test_an_lstm_begins_by_remembering():
    layer = layers.lstm(2, weight=jax.nn.initializers.ones, recurrent=jax.nn.initializers.ones)
    params = layer.init(jax.random.key(0), jnp.ones(3))
    assert params["bias"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_every_gate_is_drawn_with_its_own_fans():
    """Four orthogonal matrices side by side, not a quarter of one."""
    orthogonal = jax.nn.initializers.orthogonal()
    cell = layers.lstm(3, weight=jax.nn.initializers.ones, recurrent=orthogonal)
    params = jax.jit(cell.init)(jax.random.key(0), jnp.ones(2, jnp.bfloat16))
    assert params["recurrent"].dtype == jnp.bfloat16  # which QR does not know
    gates = np.split(np.asarray(params["recurrent"], float), 4, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(3), atol=0.02)
    assert np.abs(gates[0] - gates[1]).max() > 0.1


def test_maxout_is_the_largest_of_its_pieces(random, drawn):
    layer, x = layers.maxout(3, 4), random(5, 2)
    params = drawn(layer, x)
    linear = x @ params["weight"] + params["bias"]
    expected = [max(linear[4 * i : 4 * i + 4].tolist()) for i in range(3)]
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-12)


def test_layers_without_bias(random, drawn):
    x = random(6, 4)
    for layer in (layers.dense(3, bias=None), layers.maxout(3, 1, bias=None)):
        params = drawn(layer, x)
        assert list(params) == ["weight"]
        np.testing.assert_allclose(layer.apply(params, x), x @ params["weight"], rtol=1e-12)
    layer, signal = layers.conv(3, (1,), bias=None), random(7, 5, 4)
    params = drawn(layer, signal)
    np.testing.assert_allclose(
        layer.apply(params, signal), signal @ params["weight"][0], rtol=1e-12
    )


def test_an_index_outside_of_the_table_gives_nan(random):
    layer = layers.embedding(4, 2)
    params = {"weight": random(8, 4, 2)}
    rows = layer.apply(params, jnp.array([3, 4, -1]))
    np.testing.assert_array_equal(rows[0], params["weight"][3])
    assert np.all(np.isnan(rows[1]))
    np.testing.assert_array_equal(rows[2], params["weight"][3])


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    layer, n = layers.dropout(rate), 100_000
    outputs = np.asarray(layer.apply((), jnp.full(n, 3.0), key=jax.random.key(2)))
    dropped = np.mean(outputs == 0)
    assert abs(dropped - rate) <= 5 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_allclose(outputs[outputs != 0], 3 / (1 - rate), rtol=1e-12)
    deviation = 3 * np.sqrt(rate / (1 - rate) / n)
    assert abs(outputs.mean() - 3) <= 5 * deviation + 1e-12


def test_dropout_masks_differ_between_keys_and_keep_what_is_not_finite_dropped():
    layer, x = layers.dropout(0.5), jnp.full(1000, jnp.inf)
    one, other = (layer.apply((), x, key=jax.random.key(i)) for i in range(2))
    assert np.any(one != other)
    assert set(np.asarray(one)) == {0, np.inf}  # 0 * inf would be NaN


def test_padding_neither_wins_nor_counts():
    x = -jnp.ones((3, 1))
    assert layers.max_pool((2,), strides=1, padding="SAME").apply((), x).tolist() == [[-1]] * 3
    assert layers.average_pool((2,), strides=1, padding=1).apply((), x).tolist() == [[-1]] * 4


def test_long_means_of_bfloat16_are_summed_in_float32():
    x = jnp.ones((1000, 1), jnp.bfloat16)  # a sum in bfloat16 stops growing at 256
    assert layers.average_pool((1000,)).apply((), x).tolist() == [[1]]


def test_summary_adds_up():
    block = layers.serial(layers.dense(8), layers.elementwise(jax.nn.relu), layers.dense(4))
    model = layers.serial(
        layers.each(layers.residual(block)), layers.scan_over(layers.gru(3)), layers.flatten()
    )
    x = jax.ShapeDtypeStruct((5, 4), "float32")
    table = layers.summary(model, x)
    assert [(row.depth, row.name) for row in table.rows] == [
        (0, "each"),
        (1, "residual"),
        (2, "serial"),
        (3, "dense(8)"),
        (3, "elementwise(relu)"),
        (3, "dense(4)"),
        (0, "scan_over(gru(3))"),
        (0, "flatten"),
    ]
    assert table.total.name == "serial"
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    assert table.total.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert table.total.flops == flops.count(model.apply, params, x)
    top = [row for row in table.rows if row.depth == 0]
    assert sum(row.flops for row in top) == table.total.flops
    assert sum(row.parameters for row in top) == table.total.parameters
    each, residual, serial, *leaves = table.rows[:6]
    assert sum(row.flops for row in leaves) == serial.flops == 5 * (2 * 4 * 8 + 8 + 8 + 64 + 4)
    assert each.flops == residual.flops == serial.flops + 5 * 4
    assert table.total.outputs.shape == (15,)
    assert leaves[0].outputs.shape == (8,)
    assert "dense(8)" in str(table)
    assert len({len(line.rstrip()) for line in str(table).splitlines()}) == 1


def test_summary_of_one_layer_and_of_layers_without_parts():
    x = jnp.ones(4)
    table = layers.summary(layers.dense(3), x)
    assert [row.name for row in table.rows] == ["dense(3)"]
    assert table.total.parameters == 15
    norm = layers.summary(layers.serial(layers.batch_norm()), x)
    assert [row.name for row in norm.rows] == ["batch_norm"]
    pair = layers.summary(layers.fan_out(layers.serial(), layers.dense(2)), x)
    assert "(4,), (2,)" in str(pair).splitlines()[-1]


def test_elementwise_is_named_after_its_function():
    assert layers.elementwise(jnp.tanh).name == "elementwise(tanh)"
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)
    assert layers.elementwise(leaky).name == "elementwise(leaky_relu)"
