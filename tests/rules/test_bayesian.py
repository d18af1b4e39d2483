"""Bayesian Levenberg-Marquardt finds the evidence that scikit-learn finds, and bears bad data."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge

from fnn import Objective, l2, losses, rules
from tests import loop

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
LINE = Objective(lambda w, x: jnp.dot(x, w), losses.half_squared_error)
BENT = Objective(lambda w, x: jnp.tanh(w @ x) + (w @ x) / 2, losses.half_squared_error)
close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)


walk = jax.jit(loop.walk, static_argnames=("rule", "steps"))


def last(tree):
    return jax.tree.map(lambda leaf: leaf[-1], tree)


BAYESIAN = rules.bayesian_levenberg_marquardt()


# Oracles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 5), (20, 30)], ids=["among parameters", "among rows"])
def test_on_a_linear_model_it_is_bayesian_ridge(shape):
    n, size = shape
    inputs = RNG.normal(size=shape) * np.logspace(0, -2, size)
    targets = inputs @ RNG.normal(size=size) + 0.3 * RNG.normal(size=n)
    none = dict.fromkeys(["alpha_1", "alpha_2", "lambda_1", "lambda_2"], 0.0)
    ridge = BayesianRidge(tol=1e-13, max_iter=9999, fit_intercept=False, compute_score=True, **none)
    ridge.fit(inputs, targets)
    value_fn = LINE.on((inputs, targets))
    w, state = last(walk(BAYESIAN, jnp.ones(size), value_fn, steps=200))
    close(w, ridge.coef_, rtol=1e-4, atol=1e-6)
    close((state.alpha, state.beta), (ridge.lambda_, ridge.alpha_), rtol=1e-4)
    close(state.log_evidence, ridge.scores_[-1], rtol=1e-7)
    assert 0 < state.gamma < min(shape)


@pytest.mark.gate
def test_the_noisy_sine(capsys):
    """The experiment of benchmarks/soak asserts all it does from fewer starts, on a coarse grid."""
    soak = runpy.run_path(str(ROOT / "benchmarks" / "soak" / "bayesian.py"))
    soak["main"](starts=3, points=3)
    assert "in 3 of 3" in capsys.readouterr().out


def test_the_recurrence():
    inputs, start = RNG.normal(size=(20, 3)), jnp.array([3.0, -2.0, 1.0])
    targets = jax.vmap(BENT.model, (None, 0))(start / 3, inputs) + 0.1 * RNG.normal(size=20)
    value_fn = BENT.on((inputs, targets))
    xs, states = walk(BAYESIAN, start, value_fn, steps=25)
    data = 20 * np.array(jax.vmap(value_fn)(xs))
    weights = np.sum(np.square(xs), axis=1) / 2
    alpha, beta = 3 / np.sum(start**2), 20e4 / (2 * 20 * float(value_fn(start)))
    before, accepted, settled = np.inf, 0, 0
    for i in range(25):
        after = beta * data[i] + alpha * weights[i]
        moved = states.info.accepted[i] > accepted
        if i and moved and before - after < 0.01 * before:
            settled += 1
            gamma = float(states.gamma[i])
            alpha, beta = gamma / (2 * weights[i]), (20 - gamma) / (2 * data[i])
        close((states.alpha[i], states.beta[i]), (alpha, beta), rtol=1e-6)
        before, accepted = beta * data[i] + alpha * weights[i], states.info.accepted[i]
    assert 3 < settled < 24


# Symmetries ---------------------------------------------------------------------------------------

ROTATION, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
MAPS = {
    "rotation": (ROTATION, 1.0),
    "one other unit": (0.01 * np.eye(3), 1.0),
    "several": (np.diag([0.01, 1.0, 100.0]), 1.0),
    "scaling of the loss": (np.eye(3), 1000.0),
}
INVARIANT = {
    "automatic": (BAYESIAN, {"one other unit", "scaling of the loss"}),
    "number": (rules.bayesian_levenberg_marquardt(0.01), {"rotation"}),
}


@pytest.mark.parametrize("name", INVARIANT)
def test_path_is_unchanged_exactly_where_claimed(name):
    rule, claimed = INVARIANT[name]
    inputs, start = RNG.normal(size=(20, 3)), np.array([3.0, -2.0, 1.0])
    targets = jax.vmap(BENT.model, (None, 0))(start / 3, inputs) + 0.1 * RNG.normal(size=20)

    def path(turn, scale):
        value_fn = scale * BENT.on((inputs @ turn, targets))
        ys, states = walk(rule, np.linalg.solve(turn, start), value_fn, steps=25)
        assert states.gamma[-1] > 0.1
        return ys @ turn.T, states

    plain, states = path(np.eye(3), 1.0)
    paths = {symmetry: path(*change) for symmetry, change in MAPS.items()}
    unchanged = {s for s, (xs, _) in paths.items() if np.max(np.abs(xs - plain)) < 1e-6}
    assert unchanged == claimed
    for symmetry in claimed:
        _, others = paths[symmetry]
        unit, scale = (1e-4 if symmetry == "one other unit" else 1.0), MAPS[symmetry][1]
        close(others.alpha, states.alpha * unit, rtol=1e-5)
        close(others.beta * scale, states.beta, rtol=1e-5)
        close(others.gamma, states.gamma, rtol=1e-5)


def test_weights_are_repetitions_and_chunks_and_blocks_change_nothing():
    inputs, targets = RNG.normal(size=(6, 3)), RNG.normal(size=6)
    weights, start = np.array([1.0, 2, 1, 3, 0, 1]), jnp.array([3.0, -2.0, 1.0])
    index = np.repeat(np.arange(6), weights.astype(int))
    once = BENT.on((inputs[index], targets[index]))
    xs, states = walk(BAYESIAN, start, once, steps=25)
    part = [
        BENT.on((inputs[i], targets[i])) * (len(i) / len(index)) for i in (index[:3], index[3:])
    ]
    for value_fn in (
        BENT.on((inputs, targets), weights=weights, chunk=4),
        part[0] + part[1],
    ):
        ys, others = walk(BAYESIAN, start, value_fn, steps=25)
        close(ys, xs, rtol=1e-6)
        close(others.beta, states.beta, rtol=1e-6)
        close(others.log_evidence, states.log_evidence, rtol=1e-6)


# Bad data -----------------------------------------------------------------------------------------


def line(inputs, targets, start):
    """The rows and columns are filled up to nine and four, and weights say which rows count."""
    inputs, targets, start = (np.asarray(a, float) for a in (inputs, targets, start))
    (n, size), weights = inputs.shape, np.zeros(9)
    padded, weights[:n] = np.zeros((9, 4)), 1
    padded[:n, :size] = inputs
    value_fn = LINE.on((padded, np.resize(targets, 9)), weights=weights)
    return value_fn, jnp.asarray(np.pad(start, (0, 4 - size)))


ONE, NOTHING = np.ones(1), Objective(lambda w, x: 0 * w.sum() + x)
BAD = {
    "one example, one parameter": (LINE.on((np.ones((1, 1)), 2 * ONE)), jnp.ones(1)),
    "one example": line(np.ones((1, 4)), [2.0], np.ones(4)),
    "no curvature": (NOTHING.on(jnp.ones(3)), jnp.ones(2)),
    "no residuals": line(np.eye(3), np.ones(3), np.ones(3)),
    "a perfect fit": line(np.eye(3), np.ones(3), np.full(3, 0.1)),
    "parameters of zero": line(RNG.normal(size=(9, 4)), RNG.normal(size=9), np.zeros(4)),
    "no parameters and no residuals": line(np.eye(3), np.zeros(3), np.zeros(3)),
    "equal columns": line(np.ones((5, 4)), np.arange(5.0), np.ones(4)),
    "nothing but noise": line(np.eye(9)[:, :3], RNG.normal(size=9), np.ones(3)),
    "huge": line(1e150 * np.eye(3), np.ones(3), np.ones(3)),
    "tiny": line(1e-150 * np.eye(3), np.ones(3), np.ones(3)),
    "float32": (LINE.on((np.eye(3, dtype="f"), np.ones(3, "f"))), jnp.zeros(3, "float32")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_end_in_numbers(name):
    value_fn, start = BAD[name]
    xs, states = walk(BAYESIAN, start, value_fn, steps=40)
    assert np.isfinite(xs).all()
    assert xs.dtype == start.dtype
    for number in (states.alpha, states.beta):
        assert np.isfinite(number).all()
        assert np.all(number >= 0)
    assert np.all(states.gamma >= 0)
    assert np.all(states.gamma <= start.size * (1 + 1e-6))


def test_nan_in_one_example_is_a_step_of_zero():
    broken = np.eye(3)
    broken[1, 1] = np.nan
    value_fn, start = line(broken, np.ones(3), np.ones(3))
    xs, states = walk(BAYESIAN, start, value_fn, steps=40)
    close(xs, np.tile(start, (40, 1)))
    assert states.info.accepted[-1] == 0
    for found in (
        states.alpha,
        states.beta,
        states.damping.unit,
    ):  # a whole batch would start afresh
        close(found, np.zeros(40))


def test_a_likelihood_keeps_beta():
    objective = Objective(lambda w, x: jnp.dot(x, w), losses.logistic)
    inputs = RNG.normal(size=(30, 3))
    events = (inputs[:, 0] + RNG.normal(size=30) > 0).astype(int)
    value_fn = objective.on((inputs, events))
    w, state = last(walk(BAYESIAN, jnp.ones(3), value_fn, steps=60))
    assert state.beta == 1
    close(state.alpha, state.gamma / jnp.sum(w**2), rtol=1e-4)
    decayed = value_fn + l2(state.alpha / 30)
    close(jax.grad(decayed)(w), jnp.zeros(3), atol=1e-4)


def test_misuse_is_named():
    start = jnp.ones(2)
    value_fn = LINE.on((np.ones((3, 2)), np.ones(3)))
    with pytest.raises(ValueError, match=r"bayesian_levenberg_marquardt: .*without penalties.*try"):
        walk(BAYESIAN, start, value_fn + l2(0.1), steps=1)
    small = rules.bayesian_levenberg_marquardt(memory_budget=10)
    with pytest.raises(ValueError, match=r"dense matrix to fit.*Try a larger memory_budget"):
        walk(small, start, value_fn, steps=1)
    with pytest.raises(TypeError, match=r"got function Partial.*try fnn\.Objective"):
        walk(BAYESIAN, start, jax.tree_util.Partial(lambda w: jnp.sum(w**2)), steps=1)
    with pytest.raises(ValueError, match=r"bayesian_levenberg_marquardt: expected trials in \[1"):
        rules.bayesian_levenberg_marquardt(trials=0)
