"""Standard errors, intervals, correlations and bands of fits: against scipy's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree

from fnn import Objective, curvature, l2, losses
from fnn.curvature.intervals import reach_of
from tests.curves import CURVES

close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
LINE = Objective(CURVES["line"].model, losses.half_squared_error)
X, Y, SIGMA = CURVES["line"].data


def scipy_fit(curve, unravel, *, absolute):
    """The parameters and their covariance by scipy, from exact derivatives."""
    inputs, targets, sigma = curve.data

    def row(x, p):
        return ravel_pytree(jax.grad(curve.model)(unravel(p), x))[0]

    rows = jax.jit(jax.vmap(row, (0, None)))
    return scipy.optimize.curve_fit(
        lambda x, *p: curve.model(unravel(jnp.array(p)), x),
        inputs,
        targets,
        ravel_pytree(curve.start)[0],
        sigma,
        absolute_sigma=absolute,
        jac=lambda x, *p: rows(x, jnp.array(p)),
        ftol=1e-14,
        xtol=1e-14,
        gtol=1e-14,
    )


@functools.cache
def line(noise=None):
    """The line through the data of known or estimated noise."""
    best, _ = np.polyfit(X, Y, 1, w=1 / SIGMA, cov="unscaled")
    params = {"intercept": jnp.array(best[1]), "slope": jnp.array(best[0])}
    return curvature.uncertainty(LINE.on((X, Y), weights=1 / SIGMA**2), params, noise)


@pytest.mark.parametrize("name", CURVES)
def test_errors_are_those_of_curve_fit(name):
    curve = CURVES[name]
    _, unravel = ravel_pytree(curve.start)
    inputs, targets, sigma = curve.data
    best, covariance = scipy_fit(curve, unravel, absolute=False)
    value_fn = Objective(curve.model, losses.half_squared_error).on(
        (inputs, targets), weights=1 / sigma**2
    )
    found = curvature.uncertainty(value_fn, unravel(jnp.array(best)))
    errors = np.sqrt(np.diag(covariance))
    close(ravel_pytree(found.standard_errors())[0], errors)
    close(found.correlations(), covariance / np.outer(errors, errors), atol=1e-6)
    assert found.freedom == len(inputs) - len(best)
    if name in ("double exponential", "line"):  # where sigma is known
        _, covariance = scipy_fit(curve, unravel, absolute=True)
        found = curvature.uncertainty(value_fn, unravel(jnp.array(best)), 1.0)
        close(found.dense(), covariance)
        assert jnp.isinf(found.freedom)


def test_the_units_of_weights_matter_only_to_a_known_noise():
    params, thrice = line().params, LINE.on((X, Y), weights=3 / SIGMA**2)
    close(curvature.uncertainty(thrice, params).dense(), line().dense())
    close(curvature.uncertainty(thrice, params, 3.0).dense(), line(1.0).dense())
    close(line().noise * line(1.0).dense(), line().dense())
    close(curvature.uncertainty(7 * thrice, params).dense(), line().dense())


def test_intervals_and_bands_are_those_of_a_linear_regression():
    found, new = line(), jnp.array([0.0, 20.0])
    t = scipy.stats.t(len(X) - 2).ppf(0.95)
    errors = ravel_pytree(found.standard_errors())[0]
    low, high = (ravel_pytree(end)[0] for end in found.intervals(0.9))
    close(high - low, 2 * t * errors)
    close((high + low) / 2, ravel_pytree(found.params)[0])

    rows = np.column_stack([np.ones(2), new])  # intercept, slope
    variance = np.einsum("np,pq,nq->n", rows, found.dense(), rows)
    prediction = found.predict(new)
    close(prediction.outputs, rows @ ravel_pytree(found.params)[0])
    for (low, high), expected in (
        (prediction.confidence_band(0.9), variance),
        (prediction.prediction_band(0.9), variance + found.noise),
        (
            prediction.prediction_band(0.9, weights=jnp.array([4.0, 1.0])),
            variance + found.noise / np.array([4.0, 1.0]),
        ),
    ):
        close(high - low, 2 * t * np.sqrt(expected))
        close((high + low) / 2, prediction.outputs)
    known = line(1.0)
    low, high = known.intervals(0.9)
    close(high["slope"] - low["slope"], 2 * 1.644853627 * known.standard_errors()["slope"])


def test_reach_is_students():
    level = jnp.array([0.5, 0.95, 0.999999, 1e-6])
    for freedom in (1.0, 2.0, 7.0, 1e3, 1e9, jnp.inf):
        expected = scipy.stats.t(freedom).ppf((1 + np.asarray(level)) / 2)
        found = jax.vmap(reach_of, (0, None))(level, jnp.asarray(freedom, float))
        close(found, expected, err_msg=str(freedom))
    assert jnp.isinf(reach_of(jnp.array(0.95), jnp.array(0.0)))  # nothing is known of the noise


def test_an_example_of_weight_zero_was_not_measured():
    weights = np.where(np.arange(len(X)) < 30, 1 / SIGMA**2, 0)
    some = curvature.uncertainty(LINE.on((X[:30], Y[:30]), weights=weights[:30]), line().params)
    padded = curvature.uncertainty(LINE.on((X, Y), weights=weights), line().params)
    assert padded.freedom == some.freedom == 28
    close(padded.dense(), some.dense())


def test_it_can_be_traced_and_mapped():
    """Sets of data side by side, of float32, as many as there are seeds."""
    noise = np.random.default_rng(0).normal(size=(3, len(X)))
    targets = jnp.asarray(Y + noise, jnp.float32)
    params = {"intercept": jnp.float32(-1.0), "slope": jnp.float32(2.0)}
    x = jnp.asarray(X, jnp.float32)

    @jax.jit
    @jax.vmap
    def fits(targets):
        found = curvature.uncertainty(LINE.on((x, targets)), params)
        return found.standard_errors(), found.intervals()

    errors, (low, _) = fits(targets)
    assert errors["slope"].shape == (3,)
    assert low["slope"].dtype == jnp.float32
    alone = curvature.uncertainty(LINE.on((X, np.asarray(targets[1], float))), line().params)
    rest = np.asarray(targets[1], float) - 2 * X + 1
    scale = np.sqrt(np.sum(rest**2) / (len(X) - 2) / alone.noise)
    close(errors["slope"][1], alone.standard_errors()["slope"] * scale, rtol=1e-4)


def test_a_direction_without_data_has_infinite_errors():
    double = Objective(lambda p, x: (p["a"] + p["b"]) * x + p["c"], losses.half_squared_error)
    params = {"a": jnp.array(1.0), "b": jnp.array(1.0), "c": jnp.array(-1.0)}
    with pytest.warns(UserWarning, match="uncertainty: expected data and prior to fix"):
        found = curvature.uncertainty(double.on((X, Y)), params, 1.0)
    errors = found.standard_errors()
    assert jnp.isinf(errors["a"])
    assert jnp.isinf(errors["b"])
    alone = curvature.uncertainty(LINE.on((X, Y)), line().params, 1.0)
    close(errors["c"], alone.standard_errors()["intercept"])
    close(found.predict(X).variance, alone.predict(X).variance)  # a + b is determined
    away = found.covariance({"a": jnp.array(1.0), "b": jnp.array(1.0), "c": jnp.array(0.0)})
    assert all(jnp.isfinite(leaf) for leaf in away.values())


def test_a_parameter_that_nothing_reads_disturbs_no_prediction():
    used = Objective(lambda p, x: p["w"] * x, losses.half_squared_error)
    params = {"w": jnp.array(1.0), "dead": jnp.array(1.0)}
    with pytest.warns(UserWarning, match="uncertainty: expected data and prior to fix"):
        found = curvature.uncertainty(used.on((X, Y)), params, 1.0)
    close(found.predict(X).variance, X**2 / jnp.sum(X**2))
    held = found.covariance({"w": jnp.array(1.0), "dead": jnp.array(0.0)})
    close(held["w"], 1 / jnp.sum(X**2))
    assert held["dead"] == 0
    assert jnp.isinf(found.dense()[0, 0])


def test_several_blocks_with_a_given_noise_are_one_mean():
    params, whole = line().params, LINE.on((X, Y))
    parts = LINE.on((X[:3], Y[:3])), LINE.on((X[3:], Y[3:]))
    n, m = 3, len(X) - 3
    together = (n * parts[0] + m * parts[1]) / (n + m)
    expected = curvature.uncertainty(whole, params, 0.5).standard_errors()
    found = curvature.uncertainty(together, params, 0.5).standard_errors()
    close(found["slope"], expected["slope"])
    with pytest.raises(ValueError, match=r"expected several blocks to be scaled by their shares"):
        curvature.uncertainty(parts[0] + parts[1], params, 0.5)


def test_a_likelihood_has_the_errors_of_its_fisher_matrix():
    logistic = Objective(lambda w, x: x @ w, losses.logistic)
    inputs = np.random.default_rng(1).normal(size=(20, 2))
    w = jnp.array([0.5, -1.0])
    value_fn = logistic.on((inputs, np.arange(20) % 2))
    p = 1 / (1 + np.exp(-inputs @ w))
    expected = np.linalg.inv(inputs.T @ (inputs * (p * (1 - p))[:, None]))
    found = curvature.uncertainty(value_fn, w)
    close(found.dense(), expected)
    assert jnp.isinf(found.freedom)
    with pytest.raises(
        ValueError, match=r"uncertainty: expected noise = 1 of a likelihood, .* got 2"
    ):
        curvature.uncertainty(value_fn, w, 2.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: curvature.uncertainty(LINE.on((X, Y)), line().params, 0.0), r"noise > 0, got 0"),
        (
            lambda: curvature.uncertainty(LINE.on((X[:2], Y[:2])), line().params),
            r"more data than parameters.*got 2 parameters and 2 numbers; try noise=",
        ),
        (
            lambda: curvature.uncertainty(LINE.on((X, Y)) + l2(1e-3), line().params),
            "without penalties",
        ),
        (lambda: line().intervals(95), r"level in \(0, 1\), got 95; try 0.95"),
    ],
)
def test_misuse_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
