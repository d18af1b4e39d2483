"""The spectrum from products against the eigenvalues of the dense matrix; kinds of points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, curvature, losses, solvers
from fnn.curvature import spectrum

RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(10, 4)), RNG.normal(size=(10, 2))
PARAMS = {
    "first": jnp.asarray(RNG.normal(size=(4, 8))),
    "bias": jnp.zeros(8),
    "second": jnp.asarray(RNG.normal(size=(8, 2))),
}
SIZE = 4 * 8 + 8 + 8 * 2


def network(params, x):
    return jnp.tanh(x @ params["first"] + params["bias"]) @ params["second"]


VALUE_FN = Objective(network, losses.half_squared_error).on((INPUTS, TARGETS))
OPERATORS = {
    "hessian": curvature.hessian,
    "gauss_newton": curvature.gauss_newton,
    "fisher": functools.partial(curvature.fisher, key=jax.random.key(5), samples=2),
}


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_against_the_eigenvalues_of_the_dense_matrix(make):
    """Ends exact with all products and bounded with few; means within five standard errors."""

    @jax.jit
    def look(key):
        operator = make(VALUE_FN, PARAMS)
        found = spectrum.density(operator, key, samples=16, steps=30)
        exact = spectrum.extremes(operator, key, steps=SIZE)
        lifted = operator._replace(product=lambda v: jax.tree.map(jnp.add, operator.product(v), v))
        return (
            operator.dense(),
            exact,
            spectrum.extremes(operator, key, steps=6),
            found,
            found.mean(jnp.square),
            spectrum.trace(operator, key),
            spectrum.log_determinant(lifted, key, damping=9.0, samples=16),
            jax.lax.map(operator.product, exact.directions),
        )

    matrix, exact, rough, found, square, trace, volume, images = look(jax.random.key(0))
    values = np.linalg.eigvalsh(matrix)
    scale = np.abs(values).max()
    np.testing.assert_allclose(exact.values, values[[0, -1]], atol=1e-12 * scale)
    scaled = jax.tree.map(lambda v: jax.vmap(jnp.multiply)(exact.values, v), exact.directions)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10 * scale), images, scaled)
    assert rough.values[0] >= values[0] - 1e-12 * scale
    assert rough.values[1] <= values[-1] + 1e-12 * scale
    nearest = np.abs(values - np.asarray(rough.values)[:, None]).min(axis=1)
    assert np.all(nearest <= rough.errors + 1e-12 * scale)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    for estimate, true in (
        (square, np.mean(values**2)),
        (trace, np.sum(values)),
        (volume, np.sum(np.log(np.abs(values + 10)))),
    ):
        assert 0 < estimate.error < abs(true)
        assert abs(estimate.value - true) < 5 * estimate.error
    grid = np.linspace(values[0] - 1, values[-1] + 1, 400)
    density = found.at(jnp.asarray(grid), 0.1 * scale)
    bells = np.exp(-((grid[:, None] - values) ** 2) / (2 * (0.1 * scale) ** 2)).mean(axis=1)
    bells /= 0.1 * scale * np.sqrt(2 * np.pi)
    np.testing.assert_allclose(density, bells, atol=0.15 * bells.max())


def test_complete_subspaces_do_not_break_down():
    """No curvature, the identity, rank two, one parameter: where Lanczos would divide 0 by 0."""
    key = jax.random.key(1)
    spectra = np.array([[0.0] * 4, [1.0] * 4, [0.0, 0.0, 2.0, 5.0], [-1.0, -1.0, 3.0, 3.0]])
    turn, _ = np.linalg.qr(RNG.normal(size=(4, 4)))

    @jax.jit
    @jax.vmap
    def look(values):
        def value_fn(params):
            x = turn @ jnp.append(params["a"], params["b"])
            return values @ x**2 / 2

        operator = curvature.hessian(value_fn, {"a": jnp.zeros(3), "b": jnp.zeros(())})
        return (
            spectrum.extremes(operator, key),
            spectrum.log_determinant(operator, key, damping=2.0, samples=200),
            spectrum.log_determinant(operator, key),
        )

    ends, damped, bare = look(spectra)
    np.testing.assert_allclose(ends.values, spectra[:, [0, -1]], atol=1e-12)
    np.testing.assert_allclose(ends.errors, 0, atol=1e-12)
    off = np.abs(damped.value - np.sum(np.log(spectra + 2), axis=1))
    assert np.all(off <= 5 * damped.error + 1e-10)
    np.testing.assert_array_equal(bare.value < -30, [True, False, True, False])
    np.testing.assert_allclose(bare.value[1], 0, atol=1e-12)
    single = curvature.hessian(lambda w: 3 * w**2, jnp.ones(()))
    np.testing.assert_allclose(spectrum.extremes(single, key).values, 6)
    np.testing.assert_allclose(spectrum.log_determinant(single, key).value, np.log(6))
    alone = spectrum.trace(single, key, samples=1)
    assert (alone.value, alone.error) == (6, np.inf)
    broken = curvature.hessian(lambda w: jnp.nan * w**2, jnp.ones(()))
    assert np.all(np.isnan(spectrum.extremes(broken, key).values))
    assert np.isnan(spectrum.log_determinant(broken, key).value)


def test_half_precision_is_widened():
    def look(key):
        operator = curvature.hessian(lambda w: jnp.sum(w**2), jnp.ones(3, jnp.bfloat16))
        return spectrum.extremes(operator, key)

    ends = jax.jit(look)(jax.random.key(0))
    assert (ends.values.dtype, ends.directions.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(ends.values, 2, rtol=1e-2)


POINTS = {
    "A minimum: of 2 directions 0 down, curvature 1 to 3": ([1.0, 3.0], 0.0, 0.0),
    "A minimum: of 3 directions 0 down and 1 flat, curvature 0 to 3": ([0.0, 1.0, 3.0], 0.0, 0.0),
    "A saddle: of 3 directions 2 down, curvature -3 to 5": ([-3.0, -1.0, 5.0], 0.0, 0.0),
    "A maximum: of 2 directions 2 down, curvature -3 to -1": ([-3.0, -1.0], 0.0, 0.0),
    "A slope: of 2 directions 0 down, curvature 1 to 3": ([1.0, 3.0], 1.0, 0.0),
    "A plateau: of 2 directions 1 down, curvature -1e-05 to 1e-05": ([-1e-5, 1e-5], 1e-6, 1.0),
    "A plateau: of 2 directions 0 down and 2 flat, curvature 0 to 0": ([0.0, 0.0], 0.0, 0.0),
    "Not finite: of 2 directions 0 down and 2 flat, curvature nan to nan": ([np.nan] * 2, 0.0, 0.0),
}


@pytest.mark.parametrize("sentence", POINTS)
def test_points_are_told_in_a_sentence(sentence):
    values, slope, value = POINTS[sentence]
    diagonal = jnp.array(values)
    point = spectrum.classify(lambda x: value + slope * x[0] + x**2 @ diagonal / 2, 0 * diagonal)
    text = str(point)
    assert text.startswith(f"{sentence}, gradient ")
    assert text.endswith(f", value {point.value:.6g}.")


def test_large_points_are_told_from_products():
    """A saddle of 2001 parameters, of whose three ways down at least one is seen; under jit."""
    size = solvers.DENSE + 1
    diagonal = jnp.linspace(1.0, 2.0, size).at[:3].set(jnp.array([-4.0, -3.0, -2.0]))

    @jax.jit
    def look(x):
        return spectrum.classify(lambda x: diagonal @ x**2 / 2, x, steps=40)

    point = look(jnp.zeros(size))
    assert spectrum.Kind(int(point.kind)) == spectrum.Kind.SADDLE
    np.testing.assert_allclose((point.lowest, point.highest), (-4, 2), rtol=1e-2)
    assert 1 <= point.negative <= 3
    assert f"of 2001 directions at least {point.negative} down, curvature" in str(point)


def test_misuse_is_named():
    operator = curvature.hessian(lambda x: jnp.sum(x**2), jnp.zeros(2))
    key = jax.random.key(0)
    for look in (spectrum.extremes, spectrum.density, spectrum.log_determinant):
        with pytest.raises(ValueError, match="expected steps >= 1, got 0; try 64"):
            look(operator, key, steps=0)
    for look in (spectrum.trace, spectrum.density):
        with pytest.raises(ValueError, match="expected samples >= 1, got 0; try 8"):
            look(operator, key, samples=0)


@pytest.mark.parametrize("k", [-12, -6, 6, 12])
def test_a_point_is_of_one_kind_in_all_units_of_parameters_and_outputs(k):
    unit = 10.0**k

    @jax.jit
    def kinds(unit, output):
        def bowl(x):
            return output * (1 + jnp.sum((x / unit - 1) ** 2) + (x[0] / unit - 1) ** 4)

        points = unit * jnp.ones(3), unit * jnp.array([1.0, 1.3, 1.0])
        return [spectrum.classify(bowl, x, reach=unit).kind for x in points]

    minimum, slope = spectrum.Kind.MINIMUM, spectrum.Kind.SLOPE
    assert [*map(int, kinds(unit, 1.0))] == [*map(int, kinds(1.0, unit))] == [minimum, slope]
