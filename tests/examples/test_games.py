"""Steps at saddles have factors in closed form; a game's spectrum; modes are counted."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import fnn
from fnn import losses, rules, training

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, tmp_path, **arguments):
    """What an example's `main` returns; its picture is written."""
    made = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](
        picture=tmp_path / f"{name}.png", **arguments
    )
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    return made


def test_games(tmp_path):
    """Eigenvalues are +-i at x y and -1 at the worst; each factor is a function of them."""
    saddle, worst = run("games", tmp_path).values()
    rate, pull = 0.2, 0.4
    np.testing.assert_allclose(saddle["together"], np.sqrt(1 + rate**2), rtol=1e-9)
    np.testing.assert_allclose(saddle["in turn"], 1, atol=0.01)
    np.testing.assert_allclose(saddle["extragradient"], np.sqrt(1 - rate**2 + rate**4), rtol=1e-9)
    np.testing.assert_allclose(saddle["consensus"], np.hypot(1 - pull, rate), rtol=1e-9)
    np.testing.assert_allclose(saddle["Newton of each"], np.sqrt(2), rtol=1e-9)
    np.testing.assert_allclose(worst["together"], 1 + rate, rtol=1e-9)
    np.testing.assert_allclose(worst["in turn"], 1 + rate, rtol=1e-9)
    np.testing.assert_allclose(worst["extragradient"], 1 + rate + rate**2, rtol=1e-9)
    np.testing.assert_allclose(worst["consensus"], 1 + rate - pull, rtol=1e-9)
    assert saddle["Newton of both"] == worst["Newton of both"] == worst["Newton of each"] == 0


def test_dirac(tmp_path):
    """The spectrum of the saddle, the factors that follow, and log 4 below nothing told apart."""
    found, worths, best = run("dirac", tmp_path, steps=60)
    for penalty, (eigenvalues, _) in found.items():
        root = np.sqrt(penalty**2 / 4 - 1 / 4 + 0j)
        exact = np.sort_complex([penalty / 2 - root, penalty / 2 + root])
        np.testing.assert_allclose(eigenvalues, exact, atol=1e-6)
    assert found[0.0][1] > 1 > max(found[penalty][1] for penalty in (0.3, 1.0, 1.5))
    np.testing.assert_allclose(best[0], -np.log(4), rtol=1e-12)
    np.testing.assert_allclose(worths["levenberg_marquardt"], best, atol=1e-7)
    np.testing.assert_allclose(worths["adam"], best, atol=2e-2)
    assert np.all(worths["adam"] <= best + 1e-12)

    def log_ratio(x):
        p, q = norm.pdf(x), norm.pdf(x, 2)
        return p * np.log(p / (p + q)) + q * np.log(q / (p + q))

    np.testing.assert_allclose(best[2], quad(log_ratio, -9, 11)[0], rtol=1e-6)


def test_gan_shortened():
    """In 400 steps of Adam the samples go around most of the ring."""
    script = runpy.run_path(str(EXAMPLES / "gan.py"))
    np.testing.assert_allclose(np.linalg.norm(script["CORNERS"], axis=1), 1)
    ring = np.random.default_rng(0).normal(np.tile(script["CORNERS"], (100, 1)), 0.05)
    adam = rules.adam(3e-3, 0.5)
    made = np.asarray(jax.jit(lambda points: script["play"](points, lambda _: adam, 400))(ring))
    sectors = np.round(np.arctan2(made[:, 1], made[:, 0]) / (np.pi / 4)).astype(int) % 8
    print(np.bincount(sectors, minlength=8), np.linalg.norm(made, axis=1).mean())
    assert np.sum(np.bincount(sectors, minlength=8) > 30) >= 5
    assert 0.5 < np.linalg.norm(made, axis=1).mean() < 1.5


@pytest.mark.gate
def test_gan(tmp_path):
    """Adam covers the ring and the digits; K-FAC on each player does not."""
    counts = run("gan", tmp_path)
    assert np.sum(counts["ring", "adam"] > 31) == 8
    assert np.sum(counts["digits", "adam"] > 25) >= 8
    assert np.sum(counts["ring", "kfac"] > 31) < 8


def test_a_step_is_that_of_the_loop():
    """Under `jit`, of a rule of optax without extra arguments and of ours with them."""
    objective = fnn.Objective(lambda w, x: x @ w, losses.half_squared_error)
    x = np.random.default_rng(0).normal(size=(6, 2))
    value_fn = objective.on((x, x @ np.array([1.0, -2.0])))
    for rule in (optax.sgd(0.1), rules.adam(0.1), rules.gauss_newton()):
        start = jnp.zeros(2)
        w, _, value = jax.jit(training.step, static_argnums=0)(
            rule, rule.init(start), start, value_fn
        )
        fitted = fnn.fit(rule, value_fn, start, steps=1)
        np.testing.assert_allclose(w, fitted.params, atol=1e-12)
        np.testing.assert_allclose(value, fitted.history.value[0], rtol=1e-12)
    np.testing.assert_allclose(w, [1, -2], atol=1e-10)
