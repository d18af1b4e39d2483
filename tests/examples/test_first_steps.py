"""One unit, gradients checked by differences, and when to stop."""

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


def test_linear(tmp_path):
    """Newton's step is least squares', descent goes there; the unit decides by the side."""
    found, right, decisions = run("linear", tmp_path, steps=60)
    (descent, newton), (_, logistic) = found.values()
    np.testing.assert_allclose(newton, right, atol=1e-5)
    np.testing.assert_allclose(descent, right, atol=1e-3)
    # The classes came from a line of normal (0.6, 0.8) at a distance of 1/2, with noise.
    normal = logistic[:2] / np.linalg.norm(logistic[:2])
    assert normal @ [0.6, 0.8] > 0.97
    np.testing.assert_allclose(logistic[2] / np.linalg.norm(logistic[:2]), -0.5, atol=0.25)
    points = np.random.default_rng(0).uniform(-2, 2, (60, 2))
    np.testing.assert_array_equal(decisions, points @ [1.2, 1.6] >= 1)


def test_checking(tmp_path):
    """Errors fall with h and h^2 down to a step where rounding takes over."""
    found, away = run("checking", tmp_path)
    assert away < 1e-14
    steps = 10.0 ** np.arange(0, -13, -0.25)
    for (values, order), least in zip(
        ((found["one-sided"], 1), (found["central"], 2)), (1e-5, 1e-8), strict=True
    ):
        assert values.min() < least
        slope = np.polyfit(np.log10(steps[4:9]), np.log10(values[4:9]), 1)[0]
        np.testing.assert_allclose(slope, order, atol=0.1)
        assert values[-1] > 1e-6  # rounding


def test_stopping(tmp_path):
    """On-line learns most per look at the data; patience keeps what the validation set liked."""
    runs, long, stopped = run("stopping", tmp_path, epochs=6)
    last = [run.history.validation["loss"][-1] for run in runs.values()]
    assert last[0] < last[1] < last[2]
    assert [len(run.history.value) for run in runs.values()] == [6 * 300, 6 * 19, 6]
    assert stopped.history.validation["loss"].min() <= long.history.validation["loss"][-1]
