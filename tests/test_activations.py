"""Activations: the values and derivatives that textbooks give."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import activations

X = jnp.linspace(-4, 4, 17)
ALL = [getattr(activations, name) for name in activations.__all__]


def slope(f, x):
    return jax.vmap(jax.grad(f))(jnp.asarray(x, float))


def call(f, x):
    """With a slope where one is asked for."""
    needed = [p for p in inspect.signature(f).parameters.values() if p.default is p.empty]
    return f(x, *[0.25] * (len(needed) - 1))


@pytest.mark.parametrize("f", ALL, ids=activations.__all__)
def test_dtype_and_nan_pass_through(f):
    for dtype in (jnp.float32, jnp.bfloat16):
        y = call(f, jnp.array([-1.0, 0.0, 2.0, jnp.nan], dtype))
        assert y.dtype == dtype
        assert jnp.isnan(y).tolist() == [False, False, False, True]
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(lambda x: call(f, x), jnp.ones(3, jnp.bfloat16))


def test_steps():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-300])
    assert activations.unipolar_step(x).tolist() == [0, 1, 1, 1]
    assert activations.bipolar_step(x).tolist() == [-1, 1, 1, 1]
    for step in (activations.unipolar_step, activations.bipolar_step):
        assert slope(step, X).tolist() == [0] * len(X)


def test_absolute_value():
    assert activations.absolute_value(X).tolist() == abs(np.asarray(X)).tolist()
    assert slope(activations.absolute_value, [-2, 0, 2]).tolist() == [-1, 0, 1]


def test_parametric_relu_is_its_family():
    for a in (0.0, 0.01, -1.0, 1.5):
        expected = np.maximum(0, X) + a * np.minimum(0, X)
        np.testing.assert_array_equal(activations.parametric_relu(X, a), expected)
        at = [slope(lambda x, a=a: activations.parametric_relu(x, a), [-1, 0, 1]).tolist()]
        assert at == [[a, a, 1]]
    relu, leaky = jax.nn.relu(X), jax.nn.leaky_relu(X, 0.01)
    np.testing.assert_array_equal(activations.parametric_relu(X, 0.0), relu)
    np.testing.assert_array_equal(activations.parametric_relu(X, 0.01), leaky)
    by_unit = activations.parametric_relu(-jnp.ones(3), jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(by_unit, [0, -0.5, -1])


def test_swish():
    np.testing.assert_allclose(activations.swish(X), jax.nn.silu(X), rtol=1e-14)
    np.testing.assert_allclose(activations.swish(X, 0.0), X / 2, rtol=1e-14)
    np.testing.assert_allclose(activations.swish(X, 1e4), jax.nn.relu(X), atol=1e-14)
    assert activations.swish(jnp.array([-1e4, 1e4])).tolist() == [0, 1e4]
    lowest = -1.2784645  # where 1 + x (1 - sigmoid(x)) = 0
    assert abs(float(slope(activations.swish, [lowest])[0])) < 1e-7
    assert float(activations.swish(lowest)) == pytest.approx(-0.2784645, abs=1e-7)


def test_gudermannian():
    gd = activations.gudermannian
    np.testing.assert_allclose(slope(gd, X), 1 / np.cosh(X), rtol=1e-12)
    np.testing.assert_allclose(gd(X), np.arcsin(np.tanh(X)), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(gd(-X), -gd(X))
    np.testing.assert_allclose(gd(jnp.array([-1e3, 1e3])), [-np.pi / 2, np.pi / 2], rtol=1e-15)
