"""Our layers against those of flax, equinox and JAX, with the weights copied over."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import layers

FLOAT = jnp.float64


def agree(ours, theirs, *args, rtol=1e-10, atol=1e-12):
    """The same outputs from both functions, compiled together."""
    a, b = jax.jit(lambda *args: (ours(*args), theirs(*args)))(*args)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((11, 4), {}),
        ((9, 8, 4), {"strides": (2, 3), "padding": "VALID"}),
        ((9, 8, 4), {"dilation": (2, 1), "groups": 2, "padding": ((1, 2), (0, 3))}),
        ((5, 6, 4, 4), {"strides": 2, "groups": 4}),
    ],
)
def test_conv_is_flax(shape, options, random, drawn):
    window = (3, 2, 2)[: len(shape) - 1]
    x, layer = random(0, *shape), layers.conv(8, window, **options)
    flax = nn.Conv(
        8,
        window,
        strides=options.get("strides", 1),
        padding=options.get("padding", "SAME"),
        kernel_dilation=options.get("dilation", 1),
        feature_group_count=options.get("groups", 1),
        param_dtype=FLOAT,
    )

    def theirs(params, x):
        return flax.apply({"params": {"kernel": params["weight"], "bias": params["bias"]}}, x)

    agree(layer.apply, theirs, drawn(layer, x), x)


@pytest.mark.parametrize(
    ("shape", "strides", "padding"),
    [((7, 3), None, "SAME"), ((7, 6, 3), (1, 2), ((1, 0), (0, 1))), ((6, 5, 4, 3), 1, "VALID")],
)
def test_pools_are_flax(shape, strides, padding, random):
    window = (3, 2, 2)[: len(shape) - 1]
    ours = [
        pool(window, strides=strides, padding=padding)
        for pool in (layers.max_pool, layers.average_pool)
    ]
    steps = window if strides is None else (*np.broadcast_to(strides, len(window)),)

    def theirs(x):
        average = nn.avg_pool(x, window, steps, padding, count_include_pad=False)
        return jnp.stack([nn.max_pool(x, window, steps, padding), average])

    agree(lambda x: jnp.stack([pool.apply((), x) for pool in ours]), theirs, random(1, *shape))


def test_dense_and_embedding_are_flax(random, drawn):
    x, layer = random(2, 4), layers.dense(3)

    def dense(params, x):
        copied = {"params": {"kernel": params["weight"], "bias": params["bias"]}}
        return nn.Dense(3, param_dtype=FLOAT).apply(copied, x)

    agree(layer.apply, dense, drawn(layer, x), x)
    words, layer = np.array([[5, 0], [6, 6]]), layers.embedding(7, 3)

    def embed(params, x):
        copied = {"params": {"embedding": params["weight"]}}
        return nn.Embed(7, 3, param_dtype=FLOAT).apply(copied, x)

    agree(layer.apply, embed, drawn(layer, words), words)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (layers.layer_norm(eps=1e-3), nn.LayerNorm(epsilon=1e-3, param_dtype=FLOAT)),
        (layers.rms_norm(eps=1e-3), nn.RMSNorm(epsilon=1e-3, param_dtype=FLOAT)),
        (layers.group_norm(3, eps=1e-3), nn.GroupNorm(3, epsilon=1e-3, param_dtype=FLOAT)),
        (layers.group_norm(1, eps=1e-3), nn.GroupNorm(1, epsilon=1e-3, param_dtype=FLOAT)),
    ],
    ids=lambda layer: getattr(layer, "name", "flax"),
)
def test_norms_are_flax(ours, theirs, random, drawn):
    x = random(3, 4, 5, 6)

    def flax(params, x):
        return theirs.apply({"params": params}, x[None])[0]  # its first axis is for examples

    agree(ours.apply, flax, drawn(ours, x), x)


@pytest.mark.parametrize("shape", [(6,), (3, 4, 6)])
def test_batch_norm_is_flax_in_training_and_in_inference(shape, random, drawn):
    x, layer = random(4, 5, *shape), layers.batch_norm(eps=1e-3)
    keys = jax.random.split(jax.random.key(0), 5)
    flax = nn.BatchNorm(epsilon=1e-3, param_dtype=FLOAT)

    def ours(params, x):
        train = jax.vmap(lambda x, key: layer.apply(params, x, key=key), axis_name="examples")
        return train(x, keys), jax.vmap(layer.apply, (None, 0))(params, x)

    def theirs(params, x):
        copied = {
            "params": {"scale": params["scale"], "bias": params["bias"]},
            "batch_stats": {"mean": params["mean"], "var": params["var"]},
        }
        train = flax.apply(copied, x, use_running_average=False, mutable=["batch_stats"])[0]
        return train, flax.apply(copied, x, use_running_average=True)

    agree(ours, theirs, drawn(layer, x[0]), x)


def test_elman_is_flax(random, drawn):
    x, layer = random(5, 6, 4), layers.scan_over(layers.elman(3))

    def theirs(params, x):
        copied = {
            "i": {"kernel": params["weight"], "bias": params["bias"]},
            "h": {"kernel": params["recurrent"]},
        }
        rnn = nn.RNN(nn.SimpleCell(3, param_dtype=FLOAT))
        return rnn.apply({"params": {"cell": copied}}, x)

    agree(layer.apply, theirs, drawn(layer, x), x)


def test_gru_is_equinox(random, drawn):
    x, layer = random(6, 6, 4), layers.scan_over(layers.gru(3))

    def theirs(params, x):
        cell = eqx.tree_at(
            lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n),
            eqx.nn.GRUCell(4, 3, key=jax.random.key(0)),
            (params["weight"].T, params["recurrent"].T, params["bias"], params["recurrent_bias"]),
        )
        return jax.lax.scan(lambda h, x: 2 * (cell(x, h),), jnp.zeros(3), x)[1]

    agree(layer.apply, theirs, drawn(layer, x), x)


def test_lstm_is_equinox(random, drawn):
    x, layer = random(8, 6, 4), layers.scan_over(layers.lstm(3))

    def theirs(params, x):
        cell = eqx.tree_at(
            lambda c: (c.weight_ih, c.weight_hh, c.bias),
            eqx.nn.LSTMCell(4, 3, key=jax.random.key(0)),
            (params["weight"].T, params["recurrent"].T, params["bias"]),
        )

        def step(state, x):
            state = cell(x, state)
            return state, state[0]

        return jax.lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x)[1]

    agree(layer.apply, theirs, drawn(layer, x), x)


@pytest.mark.parametrize("mask", [None, layers.causal])
def test_multi_head_attention_is_flax(mask, random, drawn):
    x, memory = random(9, 5, 8), random(10, 5 if mask else 7, 6)
    layer = layers.multi_head_attention(2, mask=mask)
    flax = nn.MultiHeadDotProductAttention(2, param_dtype=FLOAT)

    def theirs(params, x):
        def heads(part):
            weight, bias = params[part]["weight"], params[part].get("bias", jnp.zeros(8))
            return {"kernel": weight.reshape(-1, 2, 4), "bias": bias.reshape(2, 4)}

        weight, bias = params["outputs"]["weight"], params["outputs"]["bias"]
        copied = {"out": {"kernel": weight.reshape(2, 4, 8), "bias": bias}}
        copied |= {"query": heads("queries"), "key": heads("keys"), "value": heads("values")}
        visible = None if mask is None else nn.make_causal_mask(jnp.ones(5))
        return flax.apply({"params": copied}, *x, mask=visible)

    agree(layer.apply, theirs, drawn(layer, (x, memory)), (x, memory))


def test_attention_is_that_of_jax(random):
    queries, keys, values = random(11, 4, 2, 3), random(12, 5, 2, 3), random(13, 5, 2, 3)
    mask = random(14, 2, 4, 5) > 0
    assert mask.any(axis=-1).all()

    def ours(*arrays):
        heads_first = [jnp.swapaxes(a, 0, 1) for a in arrays]
        outputs = layers.scaled_dot_product_attention(*heads_first, mask)
        return jnp.swapaxes(outputs, 0, 1)

    def theirs(*arrays):
        return jax.nn.dot_product_attention(*arrays, mask=mask)  # its softmax is in float32

    agree(ours, theirs, queries, keys, values, rtol=1e-5, atol=1e-6)
