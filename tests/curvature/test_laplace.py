"""Laplace's approximation: against explicit formulas, scikit-learn and scipy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import BayesianRidge

from fnn import Objective, curvature, l2, losses

RNG = np.random.default_rng(0)
ALPHA, BETA = 0.7, 9.0
close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)


def network(params, x):
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return {"mean": hidden @ params["v"], "sum": hidden.sum()}


def of_squares(outputs, target):
    return losses.half_squared_error(ravel_pytree(outputs)[0], target)


NETWORK = Objective(network, of_squares)
LINE = Objective(lambda w, x: jnp.dot(x, w), losses.half_squared_error)


def start(inputs, width):
    shapes = {"w": (inputs, width), "b": (width,), "v": (width, 2)}
    return {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}


def explicit(params, inputs):
    """The outputs' Jacobian, (n, 3, P)."""
    flat, unravel = ravel_pytree(params)
    rows = jax.jacobian(
        lambda p: jnp.stack([ravel_pytree(network(unravel(p), x))[0] for x in inputs])
    )
    return jax.jit(rows)(flat)


@jax.jit
def laplace(value_fn, params, alpha, beta, v, new):
    """All that there is to know, of lanes of v."""
    found = curvature.laplace(value_fn, params, alpha, beta)
    return found._replace(
        covariance=jax.vmap(found.covariance)(v),
        predict=found.predict(new),
        variances=found.variances(),
        dense=found.dense(),
    ), (
        found.gamma,
        found.log_evidence,
    )


@jax.jit
def log_evidence(value_fn, params, alpha, beta):
    return curvature.laplace(value_fn, params, alpha, beta).log_evidence


# Explicit formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize(("examples", "chunk"), [(30, None), (4, 3)])
def test_covariance_and_variance_are_those_of_the_dense_hessian(examples, chunk):
    params, new = start(2, 5), RNG.normal(size=(6, 2))
    inputs, targets = RNG.normal(size=(examples, 2)), RNG.normal(size=(examples, 3))
    weights = np.arange(examples) % 3 + 1.0
    weights[1] = 0
    value_fn = NETWORK.on((inputs, targets), weights=weights, chunk=chunk)
    flat, unravel = ravel_pytree(params)
    assert (len(flat) > 3 * examples) == (examples == 4)

    rows, along = explicit(params, inputs), explicit(params, new)
    hessian = BETA * np.einsum("n,nkp,nkq->pq", weights, rows, rows) + ALPHA * np.eye(len(flat))
    sigma = np.linalg.inv(hessian)

    v = RNG.normal(size=(2, len(flat)))
    found, (gamma, _) = laplace(
        value_fn, params, ALPHA, BETA, jax.vmap(unravel)(jnp.asarray(v)), new
    )
    (outputs, variance, noise, _), evidence = found.predict, found.evidence
    close(jax.vmap(lambda tree: ravel_pytree(tree)[0])(found.covariance), v @ sigma)
    expected = np.einsum("nkp,pq,nkq->nk", along, sigma, along)
    close(np.column_stack([variance["mean"], variance["sum"]]), expected)
    jax.tree.map(close, outputs, NETWORK.outputs(params, new))
    close(noise, 1 / BETA)
    close(found.dense, sigma)
    close(ravel_pytree(found.variances)[0], np.diag(sigma))
    close(gamma, len(flat) - ALPHA * np.trace(sigma))
    close(evidence.residuals, 3 * weights.sum())
    close(evidence.data, weights.sum() * value_fn(params))


def test_the_evidence_of_a_linear_model_is_the_density_of_its_targets():
    for shape in ((12, 4), (4, 12)):
        inputs, targets = RNG.normal(size=shape), RNG.normal(size=shape[0])
        hessian = BETA * inputs.T @ inputs + ALPHA * np.eye(shape[1])
        best = np.linalg.solve(hessian, BETA * inputs.T @ targets)
        covariance = inputs @ inputs.T / ALPHA + np.eye(shape[0]) / BETA
        expected = scipy.stats.multivariate_normal(cov=covariance).logpdf(targets)
        whole = LINE.on((inputs, targets))
        halves = [LINE.on((inputs[i], targets[i])) * share for i, share in (
            (slice(0, 1), 1 / shape[0]), (slice(1, None), 1 - 1 / shape[0])
        )]  # fmt: skip
        for value_fn in (whole, halves[0] + halves[1]):
            close(log_evidence(value_fn, best, ALPHA, BETA), expected)
        close(log_evidence(0.1 * whole, best, ALPHA, 10 * BETA), expected)


# Oracles ------------------------------------------------------------------------------------------


def test_bayesian_ridge():
    inputs = RNG.normal(size=(40, 6))
    targets = inputs @ RNG.normal(size=6) + 0.3 * RNG.normal(size=40)
    none = dict.fromkeys(["alpha_1", "alpha_2", "lambda_1", "lambda_2"], 0.0)
    ridge = BayesianRidge(tol=1e-14, max_iter=1000, fit_intercept=False, compute_score=True, **none)
    ridge.fit(inputs, targets)
    new = RNG.normal(size=(5, 6))
    value_fn = LINE.on((inputs, targets))
    found, (_, log) = laplace(value_fn, ridge.coef_, None, None, jnp.eye(6), new)
    close((found.alpha, found.beta), (ridge.lambda_, ridge.alpha_), rtol=1e-5)
    close(log, ridge.scores_[-1], rtol=1e-8)
    mean, std = ridge.predict(new, return_std=True)
    close(found.predict.outputs, mean)
    close(jnp.sqrt(found.predict.variance + found.predict.noise), std, rtol=1e-5)
    close(found.covariance, ridge.sigma_, rtol=1e-4, atol=1e-8)


def test_error_bars_of_a_curve_fit():
    x = np.linspace(0, 4, 30)
    y = 2.5 * np.exp(-1.3 * x) + 0.05 * RNG.normal(size=30)

    def curve(x, a, b):
        return a * np.exp(-b * x)

    best, pcov = scipy.optimize.curve_fit(curve, x, y, (1.0, 1.0), sigma=0.05, absolute_sigma=True)
    model = Objective(lambda p, x: p[0] * jnp.exp(-p[1] * x), losses.half_squared_error)
    found, _ = laplace(model.on((x, y)), best, 1e-9, 1 / 0.05**2, jnp.eye(2), x)
    close(found.covariance, pcov, rtol=1e-5)


def test_a_likelihood_has_no_noise_to_estimate():
    inputs, w = RNG.normal(size=(20, 3)), jnp.array([0.4, -1.0, 0.2])
    objective = Objective(lambda w, x: jnp.dot(x, w), losses.logistic)
    value_fn = objective.on((inputs, np.arange(20) % 2))
    found, (_, log) = laplace(value_fn, w, ALPHA, None, jnp.eye(3), inputs)
    p = jax.nn.sigmoid(inputs @ w)
    hessian = jnp.einsum("n,ni,nj->ij", p * (1 - p), inputs, inputs) + ALPHA * jnp.eye(3)
    close(found.covariance, jnp.linalg.inv(hessian))
    close(found.beta, 1.0)
    occam = (jnp.linalg.slogdet(hessian)[1] - 3 * jnp.log(ALPHA)) / 2
    value = jnp.sum(jax.vmap(losses.logistic)(inputs @ w, jnp.arange(20) % 2))
    close(log, -value - ALPHA * jnp.sum(w**2) / 2 - occam)


# Units --------------------------------------------------------------------------------------------


def decay(params, x):
    """A decay to a rest, in other units: of the outputs, and of each parameter."""
    time, outputs, *units = x
    a, b, c = params / jnp.stack(units)
    return outputs * (a * jnp.exp(-b * time) + c)


DECAY, TIMES = Objective(decay, losses.half_squared_error), np.linspace(0, 4, 30)
DECAYED = np.array([2.5, 1.3, 0.4])


def units_of(most):
    """Powers of ten: of one parameter alone, of two against each other, of all; and of outputs."""
    patterns = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 0), (1, 1, 1)]
    powers = [(k, np.array(one) * k) for k in range(-most, most + 1) for one in patterns]
    mixed = [(out, power) for out in (0, -most, most) for _, power in powers]
    return [(10.0**out, 10.0**power) for out, power in powers + mixed]


@pytest.mark.parametrize(("dtype", "most", "rtol"), [(float, 12, 1e-12), (np.float32, 6, 5e-5)])
def test_error_bars_do_not_depend_on_units(dtype, most, rtol):
    exponential = np.exp(-DECAYED[1] * TIMES)
    rows = np.stack([exponential, -DECAYED[0] * TIMES * exponential, np.ones(30)], axis=1)
    worst = 0.0
    for out, units in units_of(most):
        alpha, beta = 1e-3 / np.max(units) ** 2, 400 / out**2
        prior = alpha * units**2
        sigma = np.linalg.inv(400 * rows.T @ rows + np.diag(prior))  # of parameters in units of 1
        variances = np.einsum("ni,ij,nj->n", rows, sigma, rows)
        gamma = 3 - prior @ np.diag(sigma)
        occam = -(np.linalg.slogdet(sigma)[1] + np.sum(np.log(prior))) / 2

        inputs = np.stack([TIMES, *(np.full(30, unit) for unit in (out, *units))], axis=1)
        targets = out * (DECAYED[0] * exponential + DECAYED[2])
        value_fn = DECAY.on((inputs.astype(dtype), targets.astype(dtype)))
        numbers = [dtype(alpha), dtype(beta), jnp.eye(3, dtype=dtype), inputs.astype(dtype)]
        found, (effective, log) = laplace(value_fn, (DECAYED * units).astype(dtype), *numbers)
        weights = alpha * np.sum((DECAYED * units) ** 2) / 2
        pairs = [
            (np.float64(found.covariance) / np.outer(units, units), sigma),
            (np.float64(found.predict.variance) / out**2, variances),
            (effective, gamma),
            (log, 15 * np.log(beta / (2 * np.pi)) - occam - weights),
        ]
        worst = max([worst, *(np.max(np.abs(got / expected - 1)) for got, expected in pairs)])
    print(f"{np.dtype(dtype)}: largest relative deviation {worst:.1e}")
    assert worst < rtol


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1.0, 1e12])
def test_the_largest_evidence_beside_another_unit(unit):
    units = np.array([1.0, unit, 1.0])
    inputs = np.stack([TIMES, *(np.full(30, unit) for unit in (1.0, *units))], axis=1)
    exponential = np.exp(-DECAYED[1] * TIMES)
    targets = DECAYED[0] * exponential + DECAYED[2] + 0.05 * np.cos(40 * TIMES)
    found, (gamma, _) = laplace(
        DECAY.on((inputs, targets)), DECAYED * units, None, None, jnp.eye(3), inputs
    )
    rows = np.stack([exponential, -DECAYED[0] * TIMES * exponential, np.ones(30)], axis=1)
    prior = found.alpha * units**2
    sigma = np.linalg.inv(found.beta * rows.T @ rows + np.diag(prior))
    close(gamma, 3 - prior @ np.diag(sigma))
    close(found.alpha, gamma / np.sum((DECAYED * units) ** 2), rtol=1e-7)
    close(found.beta, (30 - gamma) / (2 * found.evidence.data), rtol=1e-7)


def test_units_of_all_parameters_and_outputs_where_rows_are_fewer():
    def scaled(params, x):
        position, unit = x
        params = jax.tree.map(lambda leaf: leaf / unit, params)
        return jax.tree.map(lambda leaf: leaf / unit, network(params, position))

    objective, params = Objective(scaled, of_squares), start(2, 5)
    inputs, targets, v = (RNG.normal(size=shape) for shape in ((4, 2), (4, 3), (2, 25)))
    flat, unravel = ravel_pytree(params)
    rows = explicit(params, inputs).reshape(12, -1)
    sigma = np.linalg.inv(BETA * rows.T @ rows + ALPHA * np.eye(25))
    for power in range(-12, 13, 4):
        unit = 10.0**power
        data, numbers = (inputs, np.full(4, unit)), (ALPHA / unit**2, BETA * unit**2)
        value_fn = objective.on((data, targets / unit))
        found, (gamma, _) = laplace(
            value_fn, unravel(flat * unit), *numbers, jax.vmap(unravel)(v), data
        )
        got = jax.vmap(lambda tree: ravel_pytree(tree)[0])(found.covariance)
        close(got / unit**2, v @ sigma)
        close(gamma, 25 - ALPHA * np.trace(sigma))
        variance = np.concatenate([
            found.predict.variance["mean"].ravel(),
            found.predict.variance["sum"],
        ])
        close(np.sum(variance) * unit**2, np.trace(rows @ sigma @ rows.T))


def test_a_lost_direction_warns_and_leaves_others_alone():
    def model(p, x):  # the data do not tell p[0] from p[1]
        return jnp.array([(p[0] + 1e12 * p[1]) * x, p[2] * x**2])

    x, alpha = np.linspace(1, 2, 20), 1e-30
    value_fn = Objective(model, losses.half_squared_error).on((x, np.ones((20, 2))))
    with pytest.warns(UserWarning, match=r"expected.*got 1 of 3 directions.*float64.*Try") as seen:
        curvature.laplace(value_fn, np.ones(3), alpha, BETA)
    assert len(seen) == 1
    # In a trace there is no warning.
    found, (gamma, log) = laplace(value_fn, np.ones(3), alpha, BETA, jnp.eye(3), x)
    sigma = found.covariance
    assert np.isfinite(sigma).all()
    assert np.isfinite(log)
    close(sigma[2], [0, 0, 1 / (BETA * np.sum(x**4))])
    close(sigma[0, 0], 1 / alpha)
    close(gamma, 2)
    close(found.predict.variance[:, 1], x**4 * sigma[2, 2])


def test_a_parameter_without_curvature_keeps_the_variance_of_the_prior():
    x, alpha = np.linspace(1, 2, 20), 1e-30
    model = Objective(lambda p, x: p[0] * x + 0 * p[1], losses.half_squared_error)
    found = curvature.laplace(model.on((x, x)), np.ones(2), alpha, BETA)  # exact: no warning
    close(found.covariance(np.ones(2)), [1 / (BETA * np.sum(x**2)), 1 / alpha])


def test_rows_that_leave_nothing_of_the_prior_warn():
    value_fn = LINE.on((RNG.normal(size=(2, 300)), np.ones(2)))
    curvature.laplace(value_fn, np.ones(300), ALPHA, BETA)
    with pytest.warns(UserWarning, match=r"got 2 of 2 directions.*larger alpha"):
        curvature.laplace(value_fn, np.ones(300), 1e-20, BETA)


# Cost and lanes -----------------------------------------------------------------------------------


def test_no_matrix_among_many_parameters_is_formed(memory):
    params = {"w": jnp.ones((200, 200)), "b": jnp.ones(200), "v": jnp.ones((200, 2))}
    value_fn = NETWORK.on((jnp.ones((8, 200)), jnp.ones((8, 3))))

    def run(params, value_fn, new):
        found = curvature.laplace(value_fn, params, ALPHA, BETA)
        return found.covariance(params), found.predict(new), found.log_evidence

    taken = memory(run, params, value_fn, jnp.ones((8, 200)))
    size = sum(leaf.size for leaf in params.values())
    assert taken.temp_size_in_bytes < 8 * size**2 / 1000


def test_lanes_find_the_largest_evidence():
    data, new = (RNG.normal(size=(4, 2)), RNG.normal(size=(4, 3))), RNG.normal(size=(6, 2))
    starts = [start(2, 5) for _ in range(3)]

    @jax.jit
    @jax.vmap
    def lanes(params):
        found = curvature.laplace(NETWORK.on(data), params)
        return found.alpha, found.beta, found.predict(new).variance["mean"]

    alphas, betas, variances = lanes(jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
    in_chunks = NETWORK.on(data, weights=np.ones(4), chunk=3)
    for params, alpha, beta, variance in zip(starts, alphas, betas, variances, strict=True):
        v = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
        found, (gamma, _) = laplace(in_chunks, params, float(alpha), float(beta), v, new)
        close(variance, found.predict.variance["mean"])
        close(alpha, gamma / (2 * found.evidence.weights), rtol=1e-6)
        close(beta, (12 - gamma) / (2 * found.evidence.data), rtol=1e-6)


# Bad input ----------------------------------------------------------------------------------------


def test_one_example_and_one_parameter_and_no_curvature():
    one = np.ones(1)
    point = Objective(lambda w, x: w * x, losses.half_squared_error).on((one, one))
    found, _ = laplace(point, 0.5, ALPHA, BETA, one, one)
    close(found.predict.variance, [1 / (ALPHA + BETA)])
    flat = Objective(lambda w, x: 0 * jnp.sum(w) + x)
    for inputs in (one, np.ones(3)):
        found, (gamma, log) = laplace(flat.on(inputs), np.ones(2), ALPHA, BETA, jnp.eye(2), inputs)
        close(found.covariance, jnp.eye(2) / ALPHA)
        close((gamma, found.predict.variance[0]), (0.0, 0.0))
        assert np.isfinite(log)
    for value_fn in (point, flat.on(one), LINE.on((np.eye(2), np.ones(2)))):
        w = jnp.array(1.0) if value_fn is point else jnp.ones(2)
        estimated = jax.jit(lambda f, w: curvature.laplace(f, w)[:2])(value_fn, w)
        assert np.isfinite(estimated).all()
        assert np.all(np.array(estimated) > 0)


def test_misuse_is_named():
    data = np.ones((3, 2)), np.ones(3)
    value_fn, w = LINE.on(data), jnp.ones(2)
    with pytest.raises(ValueError, match=r"without penalties.*alpha = decay \* beta \* N"):
        curvature.laplace(value_fn + l2(0.1), w)
    for numbers in ({"alpha": 0.0}, {"beta": -1.0}, {"alpha": np.inf}):
        with pytest.raises(ValueError, match=r"laplace: expected (alpha|beta) > 0, got.*try None"):
            curvature.laplace(value_fn, w, **numbers)
    events = Objective(LINE.model, losses.logistic)
    with pytest.raises(ValueError, match="all of squares or all of likelihoods, got both"):
        curvature.laplace(value_fn + events.on(data), w)
    with pytest.raises(ValueError, match=r"beta = 1 of a likelihood, .*got 2\.0; try None"):
        curvature.laplace(events.on(data), w, beta=2.0)
    with pytest.raises(ValueError, match=r"dense matrix.*got.*Try a larger memory_budget"):
        curvature.laplace(value_fn, w, memory_budget=10)
    with pytest.raises(ValueError, match=r"dense matrix.*nothing to factor"):
        curvature.laplace(Objective(LINE.model, losses.hinge).on(data), w)
    with pytest.raises(TypeError, match=r"made by Objective\.on"):
        curvature.laplace(lambda w: jnp.sum(w**2), w)
