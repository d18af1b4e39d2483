"""Stacks, pools that remember, transposed convolutions, states and positions, against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import differential, layers, losses, programs, rules
from fnn.curvature import capture, gram, structure


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((1, 0), (0, 2)), ((3, 0), (0, 2))])
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


@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_a_sequence_of_no_step_is_none(key, drawn):
    """Start and gradient are plain answers, too."""
    cell, none = layers.lstm(2), jnp.zeros((0, 3))
    over, both = layers.scan_over(cell, reverse=True), layers.bidirectional(cell, cell)
    params = drawn(over, none)
    assert over.apply(params, none, key=key).shape == (0, 2)
    assert both.apply((params, params), none, key=key).shape == (0, 4)
    state = (jnp.ones(2), jnp.ones(2))
    end, outputs = layers.scan_from(cell).apply(params, (state, none), key=key)
    np.testing.assert_array_equal(end, state)
    assert outputs.shape == (0, 2)
    grad = jax.grad(lambda p: over.apply(p, none, key=key).sum())(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grad))


def test_positions_are_those_of_the_paper(random):
    x = random(7, 5, 3)
    expected = [
        [(np.sin, np.cos)[j % 2](p / 1e4 ** (2 * (j // 2) / 3)) for j in range(3)] for p in range(5)
    ]
    got = layers.sinusoidal_positions().apply((), x)
    np.testing.assert_allclose(got, x + np.array(expected), rtol=1e-12)


def lines(row, factor):
    """A row of numbers, interpolated."""
    places = (np.arange(len(row) * factor) + 0.5) / factor - 0.5
    return np.interp(places, np.arange(len(row)), row)


@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 3, 2), (2, 1, 1)])
def test_lines_between_positions(shape, random):
    """Between the centers of positions, and constant beyond the outermost."""
    x = random(10, *shape)
    expected = x
    for axis, factor in enumerate((3, 2)):
        expected = np.apply_along_axis(lines, axis, expected, factor)
    up = layers.upsample((3, 2), method="linear")
    np.testing.assert_allclose(up.apply((), jnp.asarray(x)), expected, rtol=1e-12, atol=1e-14)
    half = up.apply((), jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(float), expected, rtol=0.02, atol=0.02)


def test_indices_and_masks_pass_a_stack_as_they_are():
    """Cast to float, an index would look nothing up, and a mask would be no condition."""

    def look(params, x):
        h, index, mask = x
        return jnp.where(mask, h * params["scale"] + params["table"][index], h), index, mask

    def init(key, x):
        del x
        return {"scale": jax.random.normal(key, (3,)), "table": jax.random.normal(key, (4, 3))}

    layer = layers.Layer(init, layers.without_key(look))
    one, x = layers.stack(layer, 3), (np.float32([1, 2, 3]), jnp.array(2), jnp.array([1, 0, 1]) > 0)
    params = one.init(jax.random.key(0), x)
    h, index, mask = one.apply(params, x)
    assert (h.dtype, index.dtype, mask.dtype) == (jnp.float64, x[1].dtype, jnp.bool_)
    np.testing.assert_array_equal(mask, x[2])
    for i in range(3):
        x = look(jax.tree.map(lambda a, i=i: a[i], params), x)
    np.testing.assert_allclose(h, x[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("window", "strides"), [((2, 2), None), ((3, 2), 1), ((5, 3), 2), ((4, 6), (2, 3)), ((1, 7), 2)]
)
def test_of_equal_entries_the_first_has_the_derivative(window, strides, random):
    x = jnp.round(random(3, 9, 8, 2))
    ours = layers.max_pool(window, strides=strides)
    steps = window if strides is None else np.broadcast_to(strides, 2)

    def pool(x):
        return ours.apply((), x)

    def plain(x):
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (*window, 1), (*steps, 1), "VALID")

    def both(fn):
        values, pull = jax.vjp(fn, x)
        return values, pull(jnp.arange(1.0, values.size + 1).reshape(values.shape))

    got, expected = jax.jit(lambda: (both(pool), both(plain)))()
    jax.tree.map(np.testing.assert_allclose, got, expected)
    unknown = x.at[2, 2, 0].set(jnp.nan)
    np.testing.assert_array_equal(pool(unknown), plain(unknown))


def test_a_laplacian_passes_through_a_pool(random):
    def field(x):
        return jnp.sum(layers.max_pool((2, 2)).apply((), jnp.sin(x).reshape(4, 4, 2)) ** 2)

    x = random(0, 32)
    expected = jnp.trace(jax.hessian(field)(x))
    np.testing.assert_allclose(differential.laplacian(field)(x), expected, rtol=1e-12)


def test_a_long_window_is_a_short_program_and_rows_look_for_no_maximum_again():
    x = jnp.arange(4096.0)[:, None]

    def equations(size):
        pool = layers.max_pool((size,), strides=3)
        return len(jax.make_jaxpr(lambda x: pool.apply((), x))(x).eqns)

    assert equations(1023) - equations(15) <= 8 * (equations(15) - equations(7))
    _, pull = jax.vjp(lambda x: layers.max_pool((2,)).apply((), x), x)
    rows = str(jax.make_jaxpr(jax.vmap(pull))(jnp.ones((9, 2048, 1))))
    assert not any(name in rows for name in (" gt", " ge", "argmax", "scatter", "window"))


@pytest.mark.parametrize("kind", ["pooled", "stack"])
def test_statistics_and_tables_see_into_pools_and_stacks(kind, random):
    """What is calibrated infers on its data what the batch trains on; parts have a row each."""
    inside = layers.serial(layers.conv(2, (3,)), layers.batch_norm())
    model = layers.pooled(inside, (2,)) if kind == "pooled" else layers.stack(inside, 3)
    x = jnp.asarray(random(11, 5, 6, 2))
    params = model.init(jax.random.key(0), x[0])
    key = jax.random.key(1)

    @jax.jit
    def both(params):
        trained = jax.vmap(lambda x: model.apply(params, x, key=key), axis_name="examples")(x)
        calibrated = layers.calibrate(model, params, x)
        return trained, jax.vmap(model.apply, (None, 0))(calibrated, x), calibrated

    trained, inferred, calibrated = both(params)
    np.testing.assert_allclose(inferred, trained, rtol=1e-9, atol=1e-11)
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (params, calibrated)]
    assert shapes[0] == shapes[1]
    table = layers.summary(model, x[0])
    times = 1 if kind == "pooled" else 3
    names = ["serial", "conv(2, (3,))", "batch_norm"] * times
    assert [(row.name, row.depth) for row in table.rows] == list(
        zip(names, [0, 1, 1] * times, strict=True)
    )
    assert sum(row.parameters for row in table.rows if row.depth) == table.total.parameters
    assert table.rows[1].outputs.shape == ((3, 2) if kind == "pooled" else (6, 2))


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
