"""Differential operators against jax.hessian, in models and under capture."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnn import curvature
from fnn.capture import trace
from fnn.differential import derivative, divergence, gradient, hessian_product, laplacian

POINTS = jnp.asarray(np.random.default_rng(0).uniform(0.2, 1.0, (5, 3)))
W, V = (jnp.asarray(np.random.default_rng(i).standard_normal((3, 4))) for i in (1, 2))


def network(x):
    return jnp.tanh(jnp.sin(x @ W + 0.3) @ V.T - 0.1)


def elementwise(x):
    """Functions of one array, powers and products; what does not move among them."""
    h = jnp.exp(-x) * jnp.log1p(x) + jnp.sqrt(x) / (1 + x**2) + jax.nn.sigmoid(x) ** 3.5
    return jnp.concatenate([h[:1] * x[1], jnp.ones(1), jnp.cumsum(x * h)[2:]])


def structural(x):
    """Matrices, reductions, indices, a maximum and a sort."""
    outer = jnp.stack(jnp.unstack(jnp.outer(x, jnp.cos(x))[::-1], axis=1))
    inverse = jnp.linalg.solve(jnp.eye(3) + outer, x)
    return inverse * jnp.max(x) + jnp.sort(outer @ x) + jnp.where(x > 0.5, x**3, x**2) * x[0]


def calls(x):
    """Loops, branches, custom rules, jit and remat."""
    h = lax.scan(lambda c, t: (jnp.sin(c * t) + c, c * c), x, x)[0]
    h = jax.checkpoint(jax.jit(lambda h: h * jnp.tanh(h)))(h)
    h = lax.fori_loop(0, 3, lambda _, h: h * jnp.cos(h), h)
    h = lax.cond(x[0] > 0.5, lambda: h * x, lambda: h * x**2)
    return jax.nn.softplus(h) + jax.nn.silu(x) * lax.stop_gradient(h) + jax.nn.gelu(h)


def still(x):
    return jnp.ones(3) + 0 * x.size


FUNCTIONS = network, elementwise, structural, calls, still


def close(actual, expected, rtol=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("u", FUNCTIONS, ids=lambda u: u.__name__)
def test_every_operator_is_what_the_hessian_says(u):
    direction = jnp.array([0.3, -1.0, 2.0])

    def some(x):
        return u(x)[1]

    def ours(x):
        return (
            laplacian(u)(x),
            laplacian(u, (0, -1))(x),
            gradient(u)(x),
            divergence(u)(x),
            derivative(u, 0)(x),
            derivative(u, 0, -1)(x),
            derivative(u, direction, 1)(x),
            hessian_product(some)(x, direction),
        )

    def theirs(x):
        slopes, bends = jax.jacobian(u)(x), jax.hessian(u)(x)
        return (
            jnp.trace(bends, axis1=1, axis2=2),
            bends[:, 0, 0] + bends[:, 2, 2],
            slopes,
            jnp.trace(slopes),
            slopes[:, 0],
            bends[:, 0, 2],
            bends[:, 1] @ direction,
            bends[1] @ direction,
        )

    jax.tree.map(close, *(jax.jit(jax.vmap(f))(POINTS) for f in (ours, theirs)))


def test_operators_compose():
    """Divergence of the gradient, the Laplacian of the Laplacian, derivatives of any order."""

    def wave(x):
        return jnp.sin(x[0]) * jnp.exp(2 * x[1]) * x[2] ** 3

    def both(x):
        value = wave(x)
        return (
            (divergence(gradient(wave))(x), laplacian(wave)(x)),
            (laplacian(wave)(x), 3 * value + 6 * value / x[2] ** 2),
            (laplacian(laplacian(wave), (0, 1))(x), 3 * laplacian(wave)(x)),
            (derivative(wave, 1, 1, 1, 0, 0)(x), -8 * value),
            (derivative(wave)(x), value),
            (jax.grad(laplacian(wave))(x)[1], 2 * laplacian(wave)(x)),
        )

    for one, other in jax.jit(jax.vmap(both))(POINTS):
        close(one, other, rtol=1e-11)


def test_a_point_may_be_a_number_and_a_model_takes_its_parameters_first():
    def model(params, t, key=None):
        return params["a"] * jnp.sin(params["w"] * t) + (0 if key is None else t**2)

    params, t = {"a": 2.0, "w": 3.0}, jnp.array(0.4)
    value = model(params, t)
    close(laplacian(model)(params, t), -9 * value)
    close(derivative(model, 0, 0)(params, t), -9 * value)
    close(laplacian(model)(params, t, key=1), -9 * value + 2)
    close(gradient(model)(params, t), 6 * jnp.cos(1.2))
    close(hessian_product(model)(params, t, jnp.array(2.0)), -18 * value)


def burgers(params, x):
    def u(x):
        return (jnp.tanh(jnp.tanh(x @ params["w"] + params["b"]) @ params["u"]) @ params["v"])[0]

    flow = derivative(u, 0)(x) + u(x) * derivative(u, 1)(x)
    return flow - 0.01 * derivative(u, 1, 1)(x)


def poisson(params, x):
    def u(x):
        return jnp.tanh(jnp.tanh(x @ params["w"] + params["b"]) @ params["u"]) @ params["v"]

    return laplacian(u)(x)[0] + u(x)[0]


SIZES = {"w": (2, 40), "b": (40,), "u": (40, 40), "v": (40, 1)}


def drawn(sizes):
    return {
        name: jnp.asarray(np.random.default_rng(i).standard_normal(shape) / shape[0] ** 0.5)
        for i, (name, shape) in enumerate(sizes.items())
    }


@pytest.mark.parametrize("residual", [burgers, poisson])
def test_derivatives_of_a_model_are_captured_exactly(residual):
    """The Gram matrix and both products, against the explicit Jacobian."""
    params, points = drawn(SIZES), POINTS[:, :2]

    @jax.jit
    def both(params, points):
        captured = curvature.capture(residual, params, points)
        explicit = jax.vmap(jax.grad(residual), (None, 0))(params, points)
        flat = jnp.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(explicit)], 1)
        u = jnp.arange(5.0)
        pulled = curvature.transpose_product(captured, u)
        return (
            (captured.outputs, jax.vmap(residual, (None, 0))(params, points)),
            (curvature.gram(captured), flat @ flat.T),
            (pulled, jax.tree.map(lambda leaf: jnp.tensordot(u, leaf, 1), explicit)),
            (
                curvature.product(captured, params)[:, 0],
                flat @ jax.flatten_util.ravel_pytree(params)[0],
            ),
        )

    for pair in both(params, points):
        jax.tree.map(functools.partial(close, rtol=1e-10), *pair)


def test_derivatives_traced_one_by_one_share_their_forward_pass():
    """Value, two slopes and one second derivative: a hidden weight has four uses, not sixteen."""
    example = jax.ShapeDtypeStruct((2,), float)
    program, _ = trace(burgers, drawn(SIZES), example, 5)
    names = list(SIZES)

    def uses(leaf):
        index = sorted(names).index(leaf)
        return sum(index in use.weight.leaves for use in program.uses)

    assert uses("u") == 4
    program, _ = trace(poisson, drawn(SIZES), example, 5)
    (tall, *_) = sorted(
        u.form.shape[1] for u in program.uses if u.operand and u.weight.leaves == {1}
    )[::-1]
    assert tall == 2  # both slopes at once
    assert uses("u") == 3  # the value, the slopes, the Laplacian


def test_wide_networks_stay_factored_and_narrow_ones_do_not():
    def form(width):
        sizes = {"w": (2, width), "b": (width,), "u": (width, width), "v": (width, 1)}
        params = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, float), sizes, is_leaf=lambda s: isinstance(s, tuple)
        )
        told = curvature.explain(poisson, params, jax.ShapeDtypeStruct((900, 2), float))
        return {leaf.path: leaf.form for leaf in told.leaves}["['u']"]

    assert (form(16), form(128)) == ("explicit", "factored")


# Misuse -------------------------------------------------------------------------------------------


def relu(x):
    return jax.nn.relu(x @ W) @ V.T


def leaky(x):
    return jax.nn.leaky_relu(jnp.maximum(x @ W, 0.2)) @ V.T


@pytest.mark.parametrize("u", [relu, leaky])
def test_second_derivatives_of_linear_pieces_warn(u):
    x = POINTS[0]
    for operator in (
        laplacian(u),
        derivative(u, 0, 1),
        functools.partial(hessian_product(lambda x: u(x)[0]), x),
    ):
        with pytest.warns(UserWarning, match="zero almost everywhere"):
            assert not jnp.any(operator(x))


def test_what_bends_anywhere_does_not_warn():
    x = POINTS[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for u in (lambda x: relu(x) ** 2, lambda x: relu(x) * x, lambda x: x @ W, network):
            laplacian(u)(x)
        derivative(relu, 0)(x)
        gradient(relu)(x)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: laplacian(network)(POINTS), ValueError, "one point.*got .5, 3.*map points"),
        (lambda: laplacian(network)(jnp.arange(3)), TypeError, "floating.*int.*astype"),
        (lambda: gradient(network)({"x": 1}), TypeError, "a point.*dict.*jnp.array"),
        (lambda: laplacian(lambda x: (x, x))(POINTS[0]), TypeError, "one real array.*outputs"),
        (lambda: laplacian(network, (3,))(POINTS[0]), ValueError, "with 3, got 3; try one from 0"),
        (lambda: derivative(network, -4)(POINTS[0]), ValueError, "with 3, got -4"),
        (
            lambda: derivative(network, jnp.ones(2))(POINTS[0]),
            ValueError,
            "directions of the shape",
        ),
        (lambda: divergence(lambda x: x[:2])(POINTS[0]), ValueError, r"\(3,\), got \(2,\)"),
        (lambda: hessian_product(network)(POINTS[0], POINTS[0]), ValueError, "a scalar, got"),
    ],
)
def test_misuse_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
