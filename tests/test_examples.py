"""Every example runs, is short, and learns what it says."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 80


def test_digits(capsys):
    main = runpy.run_path(str(EXAMPLES / "digits.py"))["main"]
    assert main(epochs=15) > 0.9
    assert "label" in capsys.readouterr().out


def test_saddle(tmp_path):
    """The distance doubles in every step; Newton goes in; sgd needs three times as long."""
    main = runpy.run_path(str(EXAMPLES / "saddle.py"))["main"]
    sgd, newton, free = main(picture=tmp_path / "saddle.png").values()
    far = np.array([0.0, 2**0.5])
    arrivals = [np.argmax(np.linalg.norm(path - far, axis=1) < 1e-2) for path in (sgd, free)]
    assert arrivals[0] > 90 > 40 > arrivals[1] > 0
    np.testing.assert_allclose(free[1:24, 1] / free[:23, 1], 2, rtol=1e-2)
    np.testing.assert_array_equal(newton[3:], 0)
    assert (tmp_path / "saddle.png").stat().st_size > 10_000


def test_laplace(tmp_path, capsys):
    """Where there are no data the band is wide enough for the truth."""
    main = runpy.run_path(str(EXAMPLES / "laplace.py"))["main"]
    assert main(picture=tmp_path / "laplace.png") > 0.8
    assert "determine 9." in capsys.readouterr().out
    assert (tmp_path / "laplace.png").stat().st_size > 10_000


def test_spectrum(tmp_path):
    """Training leads to a minimum; what 10 x 80 products see is what the matrix says."""
    main = runpy.run_path(str(EXAMPLES / "spectrum.py"))["main"]
    points = main(steps=200, width=5, picture=tmp_path / "spectrum.png")
    assert [str(point[0]).split(":")[0] for point in points.values()] == ["A slope", "A minimum"]
    for _, estimate, exact in points.values():
        np.testing.assert_allclose(estimate.nodes[:, -1], exact[-1], rtol=1e-6)
        shares = np.sum(estimate.weights * estimate.nodes, axis=1)
        np.testing.assert_allclose(np.mean(shares), np.mean(exact), atol=3 * np.std(shares))
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000


def test_kfac(tmp_path):
    """Eight passes of K-FAC beat those of adam; EKFAC's diagonal is the nearest."""
    main = runpy.run_path(str(EXAMPLES / "kfac.py"))["main"]
    lost, exact, kfac, ekfac = main(epochs=8, picture=tmp_path / "kfac.png")
    assert max(lost["kfac"], lost["ekfac"]) < lost["adam"] / 1.5 < lost["momentum"]
    away = [np.linalg.norm(exact - np.diag(values)) for values in (ekfac, kfac)]
    assert away[0] < away[1] < np.linalg.norm(exact) / 2
    assert (tmp_path / "kfac.png").stat().st_size > 10_000


def shows(name, tmp_path, **arguments):
    """What an example's main returns, having drawn its picture."""
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    found = main(picture=tmp_path / f"{name}.png", **arguments)
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    return found


def test_poisson(tmp_path):
    adam, ours = shows("poisson", tmp_path, steps=100).values()
    assert ours < 1e-4 < 1e-1 < adam


def test_heat(tmp_path):
    assert shows("heat", tmp_path, steps=120) < 1e-2


def test_burgers(tmp_path):
    assert shows("burgers", tmp_path, rounds=1, steps=60) < 5e-2


def test_stiff(tmp_path):
    """A leap within a ten-thousandth, and the cosine after it."""
    assert shows("stiff", tmp_path, steps=80) < 1e-2


def test_inverse(tmp_path):
    """The coefficient, from measurements with noise of a hundredth."""
    assert abs(shows("inverse", tmp_path, steps=60) - 0.1) < 0.005


def test_pendulum(tmp_path):
    """The truth is within three deviations, and these are small where data say much."""
    found = shows("pendulum", tmp_path, steps=60)
    for (value, deviation), truth in zip(found.values(), (0.25, 0.8, 2.0, 0.0), strict=True):
        assert abs(value - truth) < 3 * deviation
    assert found["length"][1] < 0.01


def test_precision(tmp_path):
    adam, ours = shows("precision", tmp_path, steps=60, width=12).values()
    assert ours < 1e-4 < adam


def test_mackey_glass(tmp_path):
    adam, ours = shows("mackey_glass", tmp_path, steps=100).values()
    assert ours < adam / 3
