"""Boltzmann machines beside the enumeration of all their states."""

import runpy
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, tmp_path, **arguments):
    """What a script's `main` returns; its picture is drawn."""
    picture = tmp_path / f"{name}.png"
    found = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](picture=picture, **arguments)
    assert picture.stat().st_size > 10_000
    return found


def test_boltzmann(tmp_path):
    """The gradient is the difference of two phases, the Hessian a covariance; Newton arrives."""
    runs, gradients, curvatures = run("boltzmann", tmp_path, steps=300)
    np.testing.assert_allclose(*gradients, atol=1e-12)
    np.testing.assert_allclose(*curvatures, atol=1e-12)
    least = runs["newton"][0][-1]
    np.testing.assert_allclose(runs["gauss_newton"][0], runs["newton"][0], rtol=1e-9)
    assert abs(np.diff(runs["newton"][0][-3:])).max() < 1e-12
    assert runs["sgd"][0][-1] > least + 1e-4


def test_gibbs(tmp_path):
    """Warm chains come within the standard error of the enumeration; cold ones are slow."""
    errors = run("gibbs", tmp_path, chains=1000, sweeps=60)
    for warm in (2.0, 1.0):
        assert errors[warm][0] > 5
        assert errors[warm][-10:].mean() < 2
    assert errors[0.5][-1] > errors[1.0][-1]
