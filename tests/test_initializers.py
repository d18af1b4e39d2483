"""Initializers: the distributions they promise, and that they stand for jax.nn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fnn import initializers

KEY = jax.random.key(0)
SHAPE = (400, 100)
ALL = {
    "glorot_gaussian": initializers.glorot_gaussian(),
    "he_gaussian": initializers.he_gaussian(),
    "lecun_gaussian": initializers.lecun_gaussian(),
    "sparse": initializers.sparse(5),
    "symmetric_uniform": initializers.symmetric_uniform(0.05),
}


def test_all_are_here():
    assert set(ALL) == set(initializers.__all__)


@pytest.mark.parametrize("name", ALL)
def test_signature_of_jax(name):
    initializer = ALL[name]
    for shape in ((6, 4), (3, 3, 2, 4)):
        assert jax.eval_shape(lambda k, s=shape: initializer(k, s), KEY).dtype == jnp.float64
        for dtype in (jnp.float32, jnp.bfloat16):
            drawn = jax.eval_shape(lambda k, s=shape, d=dtype: initializer(k, s, d), KEY)
            assert (drawn.shape, drawn.dtype) == (shape, dtype)
    many = jax.jit(jax.vmap(lambda key: initializer(key, (6, 4))))(jax.random.split(KEY, 2))
    assert np.any(many[0] != many[1])


@pytest.mark.parametrize(
    ("name", "variance"),
    [("lecun_gaussian", 1 / 400), ("glorot_gaussian", 2 / 500), ("he_gaussian", 2 / 400)],
)
def test_gaussians_are_not_truncated(name, variance):
    drawn = np.asarray(ALL[name](KEY, SHAPE)).ravel() / np.sqrt(variance)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert np.mean(abs(drawn) > 2) == pytest.approx(0.0455, abs=0.005)
    truncated = getattr(jax.nn.initializers, name.replace("gaussian", "normal"))()
    theirs = np.asarray(truncated(KEY, SHAPE)).ravel() / np.sqrt(variance)
    assert stats.kstest(theirs, "norm").pvalue < 1e-3


def test_kernels_count_the_window_into_the_fan():
    drawn = initializers.lecun_gaussian()(KEY, (3, 3, 40, 100))
    assert drawn.std() == pytest.approx(1 / np.sqrt(360), rel=0.02)


def test_symmetric_uniform():
    drawn = np.asarray(ALL["symmetric_uniform"](KEY, SHAPE)).ravel()
    assert stats.kstest(drawn, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sparse_gives_every_unit_its_connections(dtype):
    weight = np.asarray(initializers.sparse(15, stddev=2.0)(KEY, SHAPE, dtype), float)
    assert set((weight != 0).sum(axis=0)) == {15}
    units_of_input = (weight != 0).sum(axis=1)  # 1500 of 40 000, binomial for each input
    assert abs(units_of_input - 3.75).max() < 5 * np.sqrt(3.75)
    assert len(set(units_of_input)) > 4
    assert stats.kstest(weight[weight != 0] / 2, "norm").pvalue > 1e-3


def test_sparse_in_small_layers_and_kernels():
    assert np.all(initializers.sparse(15)(KEY, (4, 3)) != 0)
    kernel = initializers.sparse(5)(KEY, (3, 3, 2, 8))
    assert set(np.sum(np.asarray(kernel) != 0, axis=(0, 1, 2))) == {5}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: initializers.symmetric_uniform(0.0), "symmetric_uniform: expected a limit > 0"),
        (lambda: initializers.symmetric_uniform(float("nan")), "got nan"),
        (lambda: initializers.sparse(0), "sparse: expected connections > 0"),
        (lambda: initializers.sparse(3, stddev=-1.0), "got 3 and -1.0"),
        (lambda: initializers.sparse(3)(KEY, (4,)), r"expected a shape .* got \(4,\)"),
    ],
)
def test_refusals(act, message):
    with pytest.raises(ValueError, match=message):
        act()
