"""Batch normalization: the batch's statistics in training, calibrated ones in inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import layers

N = 6


def train(model, params, inputs):
    keys = jax.random.split(jax.random.key(0), jax.tree.leaves(inputs)[0].shape[0])
    mapped = jax.vmap(
        lambda params, x, key: model.apply(params, x, key=key), (None, 0, 0), axis_name="examples"
    )
    return mapped(params, inputs, keys)


def test_calibrate_takes_mean_and_variance_over_examples_and_positions(random, drawn):
    model, inputs = layers.batch_norm(), random(1, N, 3, 2, 4)
    params = drawn(model, inputs[0])
    calibrated = layers.calibrate(model, params, inputs)
    np.testing.assert_allclose(calibrated["mean"], np.mean(inputs, (0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(calibrated["var"], np.var(inputs, (0, 1, 2)), rtol=1e-12)
    assert calibrated["scale"] is params["scale"]
    assert calibrated["bias"] is params["bias"]


def test_a_second_batch_norm_sees_what_the_first_makes(random, drawn):
    model = layers.serial(
        layers.dense(3), layers.batch_norm(), layers.elementwise(jnp.tanh), layers.batch_norm()
    )
    inputs = random(2, N, 4)
    params = drawn(model, inputs[0])
    calibrated = layers.calibrate(model, params, inputs)
    h = np.asarray(inputs @ params[0]["weight"] + params[0]["bias"])
    np.testing.assert_allclose(calibrated[1]["mean"], h.mean(0), rtol=1e-12)
    np.testing.assert_allclose(calibrated[1]["var"], h.var(0), rtol=1e-12)
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * params[1]["scale"] + params[1]["bias"]
    h = np.tanh(h)
    np.testing.assert_allclose(calibrated[3]["mean"], h.mean(0), rtol=1e-12)
    np.testing.assert_allclose(calibrated[3]["var"], h.var(0), rtol=1e-12)


BLOCK = layers.serial(layers.batch_norm(), layers.elementwise(jnp.tanh), layers.dense(4))
BLOCK_AT = layers.serial(layers.batch_norm(), layers.each(layers.dense(4)), layers.batch_norm())
NESTS = {
    "residual": (layers.residual(BLOCK), (4,)),
    "fan_out": (
        layers.serial(layers.fan_out(BLOCK, layers.serial()), layers.fan_in_add(), BLOCK),
        (4,),
    ),
    "parallel": (
        layers.serial(
            layers.fan_out(layers.dense(4), layers.serial()),
            layers.parallel(BLOCK, layers.residual(BLOCK)),
            layers.fan_in_concatenate(),
        ),
        (4,),
    ),
    "each": (layers.each(layers.residual(BLOCK)), (5, 4)),
    "each of each": (layers.each(layers.each(BLOCK)), (3, 2, 4)),
    "positions by axis and by each": (layers.each(BLOCK_AT), (3, 2, 4)),
    "convolution": (
        layers.serial(
            layers.conv(3, (2,)),
            layers.batch_norm(),
            layers.scan_over(layers.elman(2)),
            layers.batch_norm(),
        ),
        (5, 4),
    ),
}


@pytest.mark.parametrize("nest", NESTS)
def test_calibrated_inference_is_training_on_the_same_batch(nest, random, drawn):
    model, shape = NESTS[nest]
    inputs = random(3, N, *shape)
    params = drawn(model, inputs[0])

    @jax.jit
    def run(params):
        infer = jax.vmap(model.apply, (None, 0))
        calibrated = layers.calibrate(model, params, inputs)
        outputs = infer(params, inputs), infer(calibrated, inputs), train(model, params, inputs)
        return calibrated, *outputs

    calibrated, before, after, trained = run(params)
    assert jax.tree.structure(calibrated) == jax.tree.structure(params)
    np.testing.assert_allclose(after, trained, rtol=1e-9, atol=1e-9)
    assert np.abs(before - trained).max() > 0.1


def test_batch_norm_at_each_position_is_batch_norm_over_an_axis(random, drawn):
    inputs, axis = random(4, N, 3, 2, 4), layers.batch_norm()
    params = drawn(axis, inputs[0])
    models = axis, layers.each(axis), layers.each(layers.each(axis))
    whole, *apart = jax.jit(lambda params: [train(m, params, inputs) for m in models])(params)
    for outputs in apart:
        np.testing.assert_allclose(outputs, whole, rtol=1e-12, atol=1e-12)


def test_calibrate_drops_nothing(random, drawn):
    model = layers.serial(layers.dropout(0.9), layers.batch_norm())
    inputs = random(5, N, 4)
    calibrated = layers.calibrate(model, drawn(model, inputs[0]), inputs)
    np.testing.assert_allclose(calibrated[1]["mean"], np.mean(inputs, 0), rtol=1e-12)


def test_calibrated_statistics_are_exact_for_small_variances_and_kept_from_bfloat16(random):
    model = layers.batch_norm()
    inputs = (100 + random(6, 64, 2)).astype(jnp.bfloat16)
    params = jax.jit(model.init)(jax.random.key(0), inputs[0])
    params = jax.jit(lambda params: layers.calibrate(model, params, inputs))(params)
    wide = np.asarray(inputs, np.float64)
    assert params["scale"].dtype == jnp.bfloat16
    assert params["var"].dtype == jnp.float32
    np.testing.assert_allclose(params["mean"], wide.mean(0), rtol=1e-6)
    np.testing.assert_allclose(params["var"], wide.var(0), rtol=1e-4)


def test_a_jitted_model_knows_where_it_is_called(random, drawn):
    """The names of axes are read while tracing, so jit must trace anew where they differ."""
    norm, inputs = layers.batch_norm(), random(7, N, 3, 4)
    params = drawn(norm, inputs[0])
    apply = jax.jit(lambda params, x, key: norm.apply(params, x, key=key))
    model = layers.Layer(norm.init, lambda params, x, *, key: apply(params, x, key), "jitted")
    whole = train(model, params, inputs)
    apart = train(layers.each(model), params, inputs)
    np.testing.assert_allclose(whole, apart, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="expected the axis name 'examples'"):
        apply(params, inputs[0], jax.random.key(0))


def test_gradients_go_through_the_statistics_of_the_batch(random, drawn):
    """Nothing changes when all inputs move together, so the gradients of a column sum to zero."""
    model, inputs = layers.batch_norm(), random(8, N, 3)
    params = drawn(model, inputs[0])
    target = random(9, N, 3)
    grad = jax.jit(jax.grad(lambda inputs: jnp.sum(target * train(model, params, inputs))))(inputs)
    assert np.abs(grad).max() > 1e-2
    np.testing.assert_allclose(grad.sum(0), 0, atol=1e-12)


def test_a_key_without_examples_is_refused():
    model, x = layers.serial(layers.batch_norm()), jnp.ones(3)
    params = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"batch_norm: expected .*Objective\.on, or without a key"):
        model.apply(params, x, key=jax.random.key(0))


def test_calibrate_refuses_what_it_cannot_see_into(random):
    inner = layers.batch_norm()
    hidden = layers.Layer(lambda key, x: {"norm": inner.init(key, x)}, None, "hidden")
    inputs = random(10, N, 3)
    params = hidden.init(jax.random.key(0), inputs[0])
    with pytest.raises(TypeError, match="cannot see the batch_norm inside hidden"):
        layers.calibrate(layers.serial(hidden), (params,), inputs)
    with pytest.raises(TypeError, match="calibrate: expected a Layer, got apply"):
        layers.calibrate(inner.apply, params, inputs)
    with pytest.raises(ValueError, match="at least one example"):
        layers.calibrate(inner, inner.init(jax.random.key(0), inputs[0]), inputs[:0])
    with pytest.raises(TypeError, match="calibrate: expected arrays, got range"):
        layers.calibrate(inner, params, range(3))


def test_a_layer_of_ones_own_can_let_calibrate_in(random):
    inner = layers.batch_norm()

    def through(visit, params, inputs):
        norm, outputs = visit(inner, params["norm"], inputs)
        return {"norm": norm}, 2 * outputs

    mine = layers.Layer(
        lambda key, x: {"norm": inner.init(key, x)},
        lambda params, x, *, key=None: 2 * inner.apply(params["norm"], x, key=key),
        "mine",
        through,
    )
    inputs = random(11, N, 3)
    params = layers.calibrate(mine, mine.init(jax.random.key(0), inputs[0]), inputs)
    np.testing.assert_allclose(params["norm"]["mean"], inputs.mean(0), rtol=1e-12)
