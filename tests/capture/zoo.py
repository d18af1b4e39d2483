"""Models of every construction, each with parameters and a batch: `ZOO[name]()`."""

from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

N = 3


class Entry(NamedTuple):
    model: Any
    params: Any
    inputs: Any


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def inputs(*shape):
    return normal(99, N, *shape)


def weights(**shapes):
    return {name: normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}


ZOO = {}


def entry(fn):
    ZOO[fn.__name__] = fn
    return fn


# --- matrix products ----------------------------------------------------------------------------


@entry
def mlp():
    params = weights(w=(3, 4), b=(4,), v=(4, 2), c=(2,), unused=(3,))
    return Entry(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] + p["c"], params, inputs(3))


@entry
def scalar_output():
    return Entry(lambda p, x: jnp.tanh(p["w"] @ x) @ p["v"], weights(w=(4, 3), v=(4,)), inputs(3))


@entry
def positions():
    """A few positions: explicit; the layout W^T x^T beside x W."""

    def model(p, x):
        h = jnp.tanh(x @ p["w"] + p["b"])
        return (p["v"] @ h.T).sum(1) + jnp.einsum("ti,oi->to", h, p["v"]).mean(0)

    return Entry(model, weights(w=(3, 4), b=(4,), v=(2, 4)), inputs(5, 3))


@entry
def wide_positions():
    """Two positions of a wide product: factored."""
    return Entry(lambda p, x: jnp.tanh(x @ p["w"]).sum(), weights(w=(20, 20)), inputs(2, 20))


@entry
def batched():
    """A weight with a batch axis, on either side, and two contracted axes."""

    def model(p, x):
        h = jnp.einsum("hi,hio->ho", x, p["w"])
        h = jnp.tanh(jnp.einsum("hoj,ho->hj", p["u"], h))
        return jnp.einsum("hj,hjk->k", h, p["v"])

    return Entry(model, weights(w=(2, 3, 4), u=(2, 4, 3), v=(2, 3, 2)), inputs(2, 3))


# --- parameters on their way --------------------------------------------------------------------


@entry
def moved():
    """Reshaped, transposed, squeezed, sliced, reversed, split, scaled."""

    def model(p, x):
        h = jnp.tanh(x @ (p["w"].reshape(4, 3).T * 0.5))
        u, v = jnp.split(p["u"][0], 2, axis=1)
        h = jnp.tanh(h @ -u / jnp.sqrt(3.0)) + h @ v[:, ::-1]
        return h[:2] @ p["s"][1:3, ::2]

    return Entry(model, weights(w=(12,), u=(1, 4, 8), s=(4, 3)), inputs(3))


@entry
def cast_to_float32():
    """Single precision inside, for parameters of double."""

    def model(p, x):
        h = jnp.tanh(x.astype(jnp.float32) @ p["w"].astype(jnp.float32))
        return h.astype(jnp.float64) @ p["v"]

    return Entry(model, weights(w=(3, 4), v=(4, 2)), inputs(3))


@entry
def added():
    """Low rank beside full rank; a sum of two leaves; W + W^T."""

    def model(p, x):
        h = jnp.tanh(x @ (p["w"] - 2 * p["u"]))
        h = jnp.tanh(h @ (p["s"] + p["s"].T))
        return h @ (p["v"] + p["left"] @ p["right"])

    shapes = {"w": (3, 4), "u": (3, 4), "s": (4, 4), "v": (4, 2), "left": (4, 1), "right": (1, 2)}
    return Entry(model, weights(**shapes), inputs(3))


@entry
def masked():
    mask = jnp.asarray([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return Entry(lambda p, x: jnp.tanh(x @ (p["w"] * mask)), weights(w=(3, 2)), inputs(3))


@entry
def weight_normalization():
    def model(p, x):
        direction = p["v"] / jnp.linalg.norm(p["v"], axis=0)
        return jnp.tanh(x @ (direction * p["g"]) + p["b"])

    return Entry(model, weights(v=(3, 4), g=(4,), b=(4,)), inputs(3))


@entry
def broadcast_and_divided():
    """Every elementwise way in, with broadcasting; a parameter alone in the output."""

    def model(p, x):
        h = (x * p["gain"] - p["shift"]) / p["scale"] + p["table"]
        h = h / (1 + p["shift"] ** 2) + jnp.exp(p["gain"])
        return jnp.maximum(h, p["floor"]).sum(0) + p["floor"][0] * p["shift"] + p["number"]

    shapes = {"gain": (3,), "shift": (3,), "scale": (4, 1), "table": (4, 3), "floor": (3,)}
    return Entry(model, weights(**shapes, number=()), inputs(4, 3))


@entry
def only_parameters():
    return Entry(lambda p, x: p["w"] * 2.0 + 0 * x, weights(w=(3,)), inputs(3))


@entry
def stopped():
    """A parameter without a gradient, one that is an integer, a while loop off the path."""

    def model(p, x):
        steps = lax.while_loop(lambda i: i < jnp.sum(p["w"] > 0), lambda i: i + 1, 0)
        return jnp.tanh(x @ p["w"] + lax.stop_gradient(p["b"])) * p["n"] + steps

    params = weights(w=(3, 4), b=(4,))
    return Entry(model, params | {"n": jnp.asarray(2)}, inputs(3))


@entry
def concatenated():
    def model(p, x):
        tokens = jnp.concatenate([p["token"][None], x])
        return jnp.tanh(tokens @ jnp.concatenate([p["w"], p["u"]], 1)).sum(0)

    return Entry(model, weights(token=(3,), w=(3, 2), u=(3, 1)), inputs(4, 3))


@entry
def complex_inside():
    def model(p, x):
        spectrum = jnp.fft.fft(x) * p["filter"] @ p["w"]
        return jnp.fft.ifft(spectrum).real + jnp.abs(spectrum)

    return Entry(model, weights(filter=(4,), w=(4, 4)), inputs(4))


# --- sharing ------------------------------------------------------------------------------------


@entry
def tied_autoencoder():
    return Entry(
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T,
        weights(w=(30, 20), b=(20,)),
        inputs(30),
    )


@entry
def tied_layers():
    """One leaf as it is twice, scaled, and in disjoint slices of a second leaf."""

    def model(p, x):
        h = jnp.tanh(x @ p["w"])
        h = jnp.tanh(h @ p["w"]) + h @ -(0.3 * p["w"])
        return h @ p["v"][:, :15] + jnp.sin(h) @ p["v"][:, 15:]

    return Entry(lambda p, x: model(p, x).sum(), weights(w=(30, 30), v=(30, 30)), inputs(30))


@entry
def overlapping():
    return Entry(
        lambda p, x: jnp.tanh(x @ p["w"][:, :3]) + x @ p["w"][:, 1:] + p["w"][0, 0],
        weights(w=(3, 4)),
        inputs(3),
    )


@entry
def one_input():
    """A product and additions that read the same entries; a number beside its square."""

    def model(p, x):
        return jnp.sin(jnp.tanh(x @ p["w"]) + p["w"][0]) * p["s"] + (p["s"][None] @ x[None])

    return Entry(model, weights(w=(1, 4), s=(1,)), inputs(1))


@entry
def physics_informed():
    """Derivatives in the inputs inside the model: every leaf has many uses."""

    def network(p, x):
        return (jnp.tanh(jnp.tanh(x @ p["w"] + p["b"]) @ p["u"]) @ p["v"])[0]

    def model(p, x):
        u, slope = jax.value_and_grad(network, 1)(p, x)
        return jnp.trace(jax.hessian(network, 1)(p, x)) + u * slope[0]

    return Entry(model, weights(w=(2, 8), b=(8,), u=(8, 8), v=(8, 1)), inputs(2))


# --- look-ups and convolutions ------------------------------------------------------------------


@entry
def embedding():
    def model(p, i):
        return jnp.tanh(p["table"][i] @ p["w"]).mean(0) + p["single"][i[0]]

    indices = jnp.asarray([[0, 1, 1], [2, 0, -1], [3, 3, 3]])
    return Entry(model, weights(table=(5, 4), w=(4, 2), single=(5, 2)), indices)


@entry
def tied_embedding():
    """Looked up, and multiplied by; and out-of-bounds indices that are clipped or dropped."""

    def model(p, i):
        h = jnp.take(p["table"], i, axis=0, mode="clip").mean(0)
        rest = jnp.take(p["other"], i, axis=1, mode="fill", fill_value=0.0)
        return jnp.sin(p["table"] @ jnp.tanh(h)).sum() + jnp.sin(rest).sum()

    indices = jnp.asarray([[0, 7], [2, 0], [3, 3]])
    return Entry(model, weights(table=(40, 20), other=(20, 5)), indices)


@entry
def convolution():
    def model(p, x):
        h = lax.conv_general_dilated(
            x[None],
            p["k"],
            (2, 1),
            "SAME",
            rhs_dilation=(1, 2),
            feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        h = jnp.tanh(h + p["b"])
        h = lax.conv_general_dilated(
            h,
            p["m"],
            (1, 1),
            ((1, 0), (-1, 1)),
            lhs_dilation=(2, 1),
            dimension_numbers=("NHWC", "OHWI", "NCHW"),
        )
        return jnp.tanh(h).sum((0, 2, 3))

    return Entry(model, weights(k=(2, 2, 1, 4), b=(4,), m=(2, 2, 2, 4)), inputs(4, 4, 2))


@entry
def pointwise_convolution():
    """Windows of one tap: with strides, padded, in groups, of a batch within the example."""

    def model(p, x):
        h = jnp.tanh(lax.conv_general_dilated(x, p["k"], (2, 1), "VALID"))
        h = jnp.tanh(lax.conv_general_dilated(h, p["m"], (1, 1), ((1, 0), (0, 0))))
        h = lax.conv_general_dilated(h, p["g"], (1, 1), "SAME", feature_group_count=2)
        return lax.conv_general_dilated(h, p["d"], (1, 1), ((0, 0),) * 2, (2, 1)).sum((0, 2, 3))

    shapes = {"k": (4, 2, 1, 1), "m": (4, 4, 1, 1), "g": (4, 2, 1, 1), "d": (2, 4, 1, 1)}
    return Entry(model, weights(**shapes), inputs(2, 2, 3, 3))


@entry
def large_kernel():
    """One position, so factored; a batch within the example; a depthwise kernel."""

    def model(p, x):
        wide = lax.conv_general_dilated(x, p["k"], (1, 1), "VALID")
        deep = lax.conv_general_dilated(x, p["d"], (3, 3), "VALID", feature_group_count=3)
        return jnp.tanh(wide).sum((0, 2, 3)).mean() + deep.sum()

    return Entry(model, weights(k=(12, 3, 4, 4), d=(3, 1, 2, 2)), inputs(2, 3, 4, 4))


# --- control flow -------------------------------------------------------------------------------


@entry
def recurrent():
    """Scans in both directions, one within another, with parameters in every role."""

    def model(p, x):
        def step(h, t):
            u, scale = t
            inner = lax.scan(lambda s, _: (jnp.tanh(s @ p["u"]) + p["b"], None), h, length=2)[0]
            return jnp.tanh(inner + u @ p["w"] + p["b"]) * jnp.exp(p["rate"]) * scale, h.sum()

        h, sums = lax.scan(step, p["start"], (x, p["scales"]), reverse=True)
        return h + sums.sum()

    shapes = {"w": (3, 4), "u": (4, 4), "b": (4,), "rate": (), "start": (4,), "scales": (5,)}
    return Entry(model, jax.tree.map(lambda w: w / 2, weights(**shapes)), inputs(5, 3))


@entry
def scanned_wide():
    """A recurrence wide enough to stay factored."""

    def model(p, x):
        return lax.scan(lambda h, u: (jnp.tanh(h @ p["u"] + u @ p["w"]), None), x[0], x)[0].sum()

    return Entry(model, weights(u=(24, 24), w=(24, 24)), inputs(2, 24))


@entry
def scanned_layers():
    def model(p, x):
        return lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), x, p["layers"])[0]

    return Entry(model, weights(layers=(4, 3, 3)), inputs(3))


@entry
def stacked_layers():
    """Kernels and biases of a stack that is scanned over, backward, under jit and remat."""

    @jax.checkpoint
    @jax.jit
    def layer(h, w, b):
        return jnp.tanh(h @ w + b)

    def model(p, x):
        h = lax.scan(lambda h, wb: (layer(h, *wb), None), x, (p["w"], p["b"]), reverse=True)[0]
        return h @ p["v"]

    return Entry(model, weights(w=(3, 8, 8), b=(3, 8), v=(8, 2)), inputs(8))


@entry
def stacked_in_parts():
    """Slices by static index; one of them twice, and one beside a scan over all."""

    def model(p, x):
        h = jnp.tanh(x @ p["w"][0] + p["b"][1])
        h = jnp.tanh(h @ p["w"][1] + p["b"][0])
        h = jnp.tanh(h @ p["w"][0] + p["b"][1]) @ p["u"][1]
        return lax.scan(lambda h, u: (jnp.sin(h @ u), None), h, p["u"])[0]

    return Entry(model, weights(w=(2, 4, 4), b=(2, 4), u=(3, 4, 4)), inputs(4))


@entry
def stacked_and_unpacked():
    """Slices that Python takes apart, along the first axis and another."""

    def model(p, x):
        for w in p["w"]:
            x = jnp.tanh(x @ w)
        left, _, right = jnp.unstack(p["u"], axis=1)
        return x @ left.T + jnp.sin(x) @ right.T

    return Entry(model, weights(w=(2, 4, 4), u=(2, 3, 4)), inputs(4))


@entry
def stacked_on_their_way():
    """Slices that are moved, scaled, split, added, masked, normalized, and handed out."""

    def model(p, x):
        def layer(h, slices):
            w, u, mask, gain, number = slices
            left, right = jnp.split(w.reshape(4, 6).T, 2)
            h = jnp.tanh(h @ -left[:, ::-1][:, :3]) + h @ (right[:, 1:] * 0.5)
            h = jnp.tanh(h @ (u + p["shared"])) + h @ (u * mask) + number * gain
            return h / jnp.linalg.norm(u) @ (p["shared"] - u).T, (h.sum(), u.sum(0), 2 * gain)

        slices = (p["w"], p["u"], jnp.tri(6).reshape(2, 3, 6)[..., :3], p["gain"], p["number"])
        h, (sums, columns, gains) = lax.scan(layer, x, slices)
        return h + sums.sum() * columns.sum(0) + gains.sum(0)

    shapes = {"w": (2, 24), "u": (2, 3, 3), "shared": (3, 3), "gain": (2, 3), "number": (2,)}
    return Entry(model, weights(**shapes), inputs(3))


@entry
def stacks_of_stacks():
    """A scan in a scan over weights; each of them has a stack, too; and one has no iteration."""

    def model(p, x):
        def block(h, block_weights):
            w, u = block_weights

            def layer(h, slices):
                w, gain = slices
                return jnp.tanh(h @ w + gain) @ (u * p["number"]), None

            return lax.scan(layer, h, (w, p["gains"]))[0] * gains_of(p), None

        h = lax.scan(block, x, (p["w"], p["u"]))[0]
        return lax.scan(lambda h, w: (h @ w, None), h, p["w"][:0, 0])[0]

    def gains_of(p):
        return 1 + p["gains"].sum(0)

    shapes = {"w": (2, 3, 4, 4), "u": (2, 4, 4), "gains": (3, 4), "number": ()}
    return Entry(model, weights(**shapes), inputs(4))


@entry
def stacked_in_time():
    """Stacked recurrent layers: a scan over time around the layers, and one inside of each."""

    def model(p, x):
        def step(states, u):
            def layer(below, slices):
                state, w, r = slices
                state = jnp.tanh(below @ w + state @ r)
                return state, state

            return lax.scan(layer, u, (states, p["w"], p["r"]))[1], None

        def deep(sequence, w):
            return lax.scan(lambda h, u: (jnp.tanh(h + u @ w),) * 2, x[0], sequence)[1], None

        states = lax.scan(step, jnp.zeros((2, 3)), x)[0]
        return lax.scan(deep, x, p["d"])[0].sum(0) + states[-1]

    return Entry(model, weights(w=(2, 3, 3), r=(2, 3, 3), d=(2, 3, 3)), inputs(4, 3))


@entry
def stacked_kinds():
    """A convolution, a look-up and a branch, each with its slice."""

    def model(p, x):
        def layer(h, slices):
            kernel, table, w = slices
            h = jnp.tanh(lax.conv_general_dilated(h[None], kernel, (1,), "SAME")[0])
            h = h + table[jnp.argmax(h[0])][:, None]
            return lax.cond(h.sum() > 0, lambda: w @ h, lambda: w.T @ h * w[0, 0]), None

        return lax.scan(layer, x, (p["kernel"], p["table"], p["w"]))[0].sum(1)

    shapes = {"kernel": (3, 2, 2, 3), "table": (3, 4, 2), "w": (3, 2, 2)}
    return Entry(model, weights(**shapes), inputs(2, 4))


@entry
def stacked_branches():
    """Weights that pass a branch whose other arm is NaN, a factorization, a rule of their own."""

    def model(p, x):
        def block(h, block_weights):
            def layer(h, slices):
                w, s = slices
                w = lax.cond(w[0, 0] > 0, jnp.sqrt, lambda w: w * p["number"], jnp.abs(w) * w)
                root = jnp.linalg.cholesky(s @ s.T + jnp.eye(3))
                return jnp.tanh(h @ w + h @ jax.nn.relu(s)) @ root, None

            return lax.scan(layer, h, block_weights)[0], None

        return lax.scan(block, x, (p["w"], p["s"]))[0]

    params = weights(w=(2, 2, 3, 3), s=(2, 2, 3, 3), number=())
    signs = jnp.array([[1.0, -1.0], [-1.0, 1.0]])[..., None, None]
    return Entry(model, params | {"w": signs * jnp.abs(params["w"])}, inputs(3))


@entry
def stacked_with_derivatives():
    """A gradient in the inputs, through a scan over the layers."""

    def network(p, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0] @ p["v"]

    def model(p, x):
        value, slope = jax.value_and_grad(network, 1)(p, x)
        return value * slope + jax.jvp(lambda x: network(p, x), (x,), (slope,))[1]

    return Entry(model, weights(w=(3, 4, 4), v=(4,)), inputs(4))


@entry
def conditional():
    """Branches by the example; a branch that is not entered has no say, not even a NaN."""

    def model(p, x):
        h = lax.cond(
            x[0] > 0,
            lambda: jnp.sqrt(p["b"] ** 2 + x[0]) @ p["v"],
            lambda: lax.map(lambda u: u @ p["w"], x[:, None])[0],
        )
        return h + lax.switch(jnp.int32(x[1] > 0), [lambda: x @ p["u"], lambda: p["c"]])

    def guarded(p, x):
        kept = lax.cond(x[0] > 1e3, lambda: x @ jnp.sqrt(p["zero"]), lambda: x @ p["u"])
        return model(p, x) + kept

    params = weights(b=(4,), v=(4, 2), w=(1, 2), u=(3, 2), c=(2,))
    return Entry(guarded, params | {"zero": jnp.zeros((3, 2))}, inputs(3))


@entry
def nested_calls():
    @jax.jit
    def layer(w, h):
        return jnp.tanh(h @ w.T)

    def model(p, x):
        h = jax.checkpoint(layer)(p["w"], x)
        return jax.jit(layer)(p["u"], layer(p["u"], h))

    return Entry(model, weights(w=(4, 3), u=(4, 4)), inputs(3))


# --- custom derivatives -------------------------------------------------------------------------


@entry
def relu_at_its_kink():
    x = inputs(3).at[:, 0].set(0.0)
    params = weights(w=(3, 4), v=(4, 2))
    params["w"] = params["w"].at[1:].set(0.0)
    return Entry(
        lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"] + jnp.abs(x @ p["w"]),
        params | {"v": normal(5, 4, 4)},
        x,
    )


@jax.custom_jvp
def sign(x):
    return jnp.sign(x)


sign.defjvp(lambda primals, tangents: (sign(*primals), *tangents))


@jax.custom_vjp
def rounded(x, scale):
    return jnp.round(x * scale)


rounded.defvjp(
    lambda x, scale: (jnp.round(x * scale), (x, scale)),
    lambda residuals, g: (2.0 * g, 3.0 * jnp.sum(g * residuals[0])),
)


@entry
def straight_through():
    def model(p, x):
        h = sign(x @ p["w"] + p["b"])
        return rounded(h @ p["v"], p["scale"]) + sign(p["v"][0]) + rounded(x @ p["w"], 2.0).sum()

    def quantized(p, x):
        return model(p, x @ rounded(p["q"], 2.0))

    return Entry(quantized, weights(w=(3, 4), b=(4,), v=(4, 2), scale=(), q=(3, 3)), inputs(3))


@entry
def softplus_far_out():
    return Entry(
        lambda p, x: jax.nn.softplus(x @ p["w"]) + jax.nn.softplus(p["b"] - 1e4),
        weights(w=(3, 4), b=(4,)),
        inputs(3) * jnp.asarray([[1e4], [-1e4], [1.0]]),
    )


@entry
def large_table():
    """More than 256 numbers that are added as they are: a matrix for each row."""
    return Entry(
        lambda p, x: jnp.tanh(p["table"] + x).sum(1) @ p["v"],
        weights(table=(18, 15), v=(18, 2)),
        inputs(15),
    )


# --- other people's -----------------------------------------------------------------------------


@entry
def attention():
    def model(p, x):
        x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * p["gain"] + p["bias"]
        q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(4, 3, 2, 3), 1, 0)
        weight = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k), -1)
        mixed = jnp.einsum("hts,shd->thd", weight, v)
        return jnp.einsum("thd,hdo->to", mixed, p["out"]).mean(0)

    return Entry(model, weights(gain=(3,), bias=(3,), qkv=(3, 18), out=(2, 3, 2)), inputs(4, 3))


def _linen(module, x):
    params = jax.jit(module.init)(jax.random.key(0), x[0])
    return Entry(module.apply, jax.tree.map(lambda w: w + 0.1 * normal(3, *w.shape), params), x)


@entry
def flax_cnn():
    class Cnn(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.LayerNorm()(linen.Conv(3, (2, 2))(x)))
            x = linen.avg_pool(x, (2, 2), (2, 2))
            return linen.Dense(2)(x.reshape(-1))

    return _linen(Cnn(), inputs(4, 4, 2))


@entry
def flax_lstm():
    class Lstm(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2)(linen.RNN(linen.OptimizedLSTMCell(3, param_dtype=x.dtype))(x)[-1])

    return _linen(Lstm(), inputs(4, 2))


@entry
def flax_attention():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(x))
            return linen.Dense(2)(linen.gelu(linen.Dense(4)(x))).mean(0)

    return _linen(Block(), inputs(3, 4))


@entry
def flax_nnx():
    class Mlp(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(5, 3, param_dtype=jnp.float64, rngs=rngs)
            self.norm = nnx.LayerNorm(3, param_dtype=jnp.float64, rngs=rngs)
            self.out = nnx.Linear(3, 2, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, i):
            return self.out(nnx.silu(self.norm(self.embed(i))))

    graph, params = nnx.split(Mlp(nnx.Rngs(0)))
    return Entry(lambda p, x: nnx.merge(graph, p)(x), params, jnp.asarray([0, 4, 4]))


@entry
def haiku_lstm():
    def forward(x):
        core = hk.LSTM(3)
        outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(None))
        return hk.nets.MLP([4, 2])(outputs[-1])

    model = hk.without_apply_rng(hk.transform(forward))
    x = inputs(4, 2)
    return Entry(model.apply, jax.jit(model.init)(jax.random.key(0), x[0]), x)


@entry
def equinox_mlp():
    module = eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))
    params, static = eqx.partition(module, eqx.is_inexact_array)
    return Entry(lambda p, x: eqx.combine(p, static)(x), params, inputs(3))


@entry
def equinox_conv_gru():
    class Mixed(eqx.Module):
        conv: eqx.nn.Conv1d
        cell: eqx.nn.GRUCell

        def __call__(self, x):
            sequence = jax.nn.relu(self.conv(x)).T
            return lax.scan(lambda h, u: (self.cell(u, h), None), jnp.zeros(3), sequence)[0]

    one, two = jax.random.split(jax.random.key(0))
    module = Mixed(eqx.nn.Conv1d(2, 4, 2, key=one), eqx.nn.GRUCell(4, 3, key=two))
    params, static = eqx.partition(module, eqx.is_inexact_array)
    return Entry(lambda p, x: eqx.combine(p, static)(x), params, inputs(2, 5))


# --- drawn at random ----------------------------------------------------------------------------


def drawn(seed):
    """A random composition of operations on an example of shape (3, 4)."""
    rng = np.random.default_rng(seed)
    params, layers = {}, []

    def new(*shape):
        name = f"p{len(params)}"
        params[name] = jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]))
        return name

    def old(*shape):
        same = [name for name, leaf in params.items() if leaf.shape == shape]
        return str(rng.choice(same)) if same and rng.random() < 0.5 else new(*shape)

    def scanned(h, w, u):
        def step(c, t):
            c = jnp.tanh(c @ w + t @ u)
            return c, c

        return lax.scan(step, h[0], h)[1]

    def mixed(h, w):
        return jax.nn.softmax(h @ w @ h.T) @ h

    def convolved(h, k):
        return lax.conv_general_dilated(h.T[None], k, (1,), "SAME")[0].T

    choices = [
        (lambda h, w: h @ w, [(4, 4)]),
        (lambda h, w: (0.7 * w @ h.T).T, [(4, 4)]),
        (lambda h, w: w @ h, [(3, 3)]),
        (lambda h, w, b: jnp.tanh(h @ w + b), [(4, 4), (4,)]),
        (lambda h, b: h * b - b, [(4,)]),
        (lambda h, b: h / (1 + b**2), [(4,)]),
        (lambda h, w: h + jax.nn.relu(h @ w.T), [(4, 4)]),
        (lambda h, w: h @ (w / jnp.linalg.norm(w)), [(4, 4)]),
        (lambda h, w, v: h @ (w + v.T), [(4, 4), (4, 4)]),
        (lambda h, w: jnp.concatenate([h[:, :2] @ w[:2], h[:, 2:] @ w[2:]], 1), [(4, 2)]),
        (lambda h, w: h + jnp.where(h[:1] > 0, w, 0), [(3, 4)]),
        (lambda h, w: lax.cond(h[0, 0] > 0, lambda: h @ w, lambda: h * 2), [(4, 4)]),
        (scanned, [(4, 4), (4, 4)]),
        (mixed, [(4, 4)]),
        (convolved, [(4, 4, 2)]),
    ]
    for i in rng.choice(len(choices), size=4):
        fn, shapes = choices[i]
        fn = [lambda f: f, jax.jit, jax.checkpoint][rng.integers(3)](fn)
        layers.append((fn, [old(*shape) for shape in shapes]))
    out = new(4, 2)

    def model(p, x):
        for fn, names in layers:
            x = jnp.sin(fn(x, *(p[name] for name in names)))
        return (x @ p[out]).mean(0)

    return Entry(model, params, inputs(3, 4))


for _seed in range(12):
    ZOO[f"drawn_{_seed}"] = lambda seed=_seed: drawn(seed)
