"""Every example runs, is short, and learns what it says."""

import re
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


def test_valleys(tmp_path):
    """Four minima of one global one; two equal valleys, each the other's mirror image."""
    main = runpy.run_path(str(EXAMPLES / "valleys.py"))["main"]
    (points, heights), (ends, depths) = main(picture=tmp_path / "valleys.png").values()
    np.testing.assert_array_equal(np.sign(points), [[1, 1], [-1, 1], [-1, -1], [1, -1]])
    assert len(set(heights.round(4))) == 3
    assert heights.argmin() == 2
    np.testing.assert_allclose(depths, 0, atol=1e-6)
    np.testing.assert_allclose(abs(ends), [[1.5, 1.0]] * 4, atol=1e-2)
    assert set(map(tuple, np.sign(ends))) == {(1, 1), (-1, -1)}
    assert (tmp_path / "valleys.png").stat().st_size > 10_000


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


@pytest.mark.gate
def test_kfac(tmp_path):
    """Eight passes of K-FAC beat those of adam; EKFAC's diagonal is the nearest."""
    main = runpy.run_path(str(EXAMPLES / "kfac.py"))["main"]
    lost, exact, kfac, ekfac = main(epochs=8, picture=tmp_path / "kfac.png")
    assert max(lost["kfac"], lost["ekfac"]) < lost["adam"] / 1.5 < lost["momentum"]
    away = [np.linalg.norm(exact - np.diag(values)) for values in (ekfac, kfac)]
    assert away[0] < away[1] < np.linalg.norm(exact) / 2
    assert (tmp_path / "kfac.png").stat().st_size > 10_000


def run(name, tmp_path, **arguments):
    """What an example's `main` returns; its picture is written."""
    made = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](
        picture=tmp_path / f"{name}.png", **arguments
    )
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    return made


def test_whitening(tmp_path):
    """Three whitenings, one covariance; more components lose less."""
    covariances, lost = run("whitening", tmp_path)
    off = [np.abs(covariances[name] - np.eye(2)).max() for name in covariances]
    assert min(off[:2]) > 1
    np.testing.assert_allclose(off[2:], 0, atol=1e-6)
    assert abs(covariances["rotated"][0, 1]) < 1e-9 < abs(covariances["centered"][0, 1])
    assert lost[0] > 1.5 * lost[1] > 3 * lost[2] > 0


def test_features(tmp_path):
    """Cross-entropy ends above 93 % and is far ahead of squared error at first."""
    fast, slow = run("features", tmp_path, epochs=30)
    assert fast[-1] > 0.93
    assert fast[2] > slow[2] + 0.2


def test_vanishing(tmp_path):
    """Logistic units lose the gradient, rectified ones and shortcuts keep it; LSTM remembers."""
    by_layer, by_step = run("vanishing", tmp_path, depth=10, steps=20)
    fallen = {name: norms[0] / norms[-1] for name, norms in by_layer.items()}
    assert fallen["logistic"] < 1e-5
    assert 0.1 < fallen["ReLU, variance 2/n"] < 10
    assert 0.1 < fallen["logistic, shortcuts"] < 10
    assert by_step["Elman, half of orthogonal"][0] < 1e-4 * by_step["LSTM"][0]
    assert by_step["Elman, 3/2 of orthogonal"][0] > 100 * by_step["Elman, 3/2 of orthogonal"][-1]


def test_adversarial(tmp_path):
    """At the size trained against, half of the errors at most; ten steps do more harm than one."""
    usual, against = run("adversarial", tmp_path, epochs=30).values()
    assert against[0][4] < usual[0][4] / 2
    assert abs(against[0][0] - usual[0][0]) < 0.02
    assert np.all(usual[1][1:] >= usual[0][1:] - 0.02)


def test_smaller(tmp_path):
    """Training again mends what pruning broke; 8 bits cost nothing; sizes are what they are."""
    table = run("smaller", tmp_path, epochs=20, shares=(0.1,), sizes=(12, 4))
    (whole,), (bits,), (cut,), (again,) = (
        table[name] for name in ("whole", "8 bits", "pruned", "pruned, trained again")
    )
    assert abs(bits[1] - whole[1]) < 0.01
    assert bits[0] < whole[0] / 3.5
    assert again[1] > max(cut[1], whole[1] - 0.03)
    assert again[0] == cut[0] < whole[0] / 7
    assert [size for size, _ in table["small"]] == [size for size, _ in table["small, distilled"]]


@pytest.mark.gate
def test_poisson(tmp_path):
    adam, ours = run("poisson", tmp_path, steps=100).values()
    assert ours < 1e-4 < 1e-1 < adam


@pytest.mark.gate
def test_heat(tmp_path):
    assert run("heat", tmp_path, steps=120) < 1e-2


@pytest.mark.gate
def test_burgers(tmp_path):
    assert run("burgers", tmp_path, rounds=1, steps=60) < 5e-2


def test_stiff(tmp_path):
    """A leap within a ten-thousandth, and the cosine after it."""
    assert run("stiff", tmp_path, steps=80) < 1e-2


def test_inverse(tmp_path):
    """The coefficient, from measurements with noise of a hundredth."""
    assert abs(run("inverse", tmp_path, steps=60) - 0.1) < 0.005


def test_pendulum(tmp_path):
    """The truth is within three deviations, and these are small where data say much."""
    found = run("pendulum", tmp_path, steps=60)
    for (value, deviation), truth in zip(found.values(), (0.25, 0.8, 2.0, 0.0), strict=True):
        assert abs(value - truth) < 3 * deviation
    assert found["length"][1] < 0.01


@pytest.mark.gate
def test_precision(tmp_path):
    adam, ours = run("precision", tmp_path, steps=60, width=12).values()
    assert ours < 1e-4 < adam


def test_mackey_glass(tmp_path):
    adam, ours = run("mackey_glass", tmp_path, steps=100).values()
    assert ours < adam / 3


def test_perceptron(tmp_path):
    main = runpy.run_path(str(EXAMPLES / "perceptron.py"))["main"]
    found, never, wrong = main(picture=tmp_path / "perceptron.png")
    assert wrong == 0
    assert found == "separated after 9 mistakes"
    assert never.startswith("cycles")
    assert (tmp_path / "perceptron.png").stat().st_size > 5_000


def test_regions(tmp_path):
    union = runpy.run_path(str(EXAMPLES / "regions.py"))["main"](tmp_path / "regions.png")
    points = np.array([[-0.6, 0.0], [0.8, 0.1], [1.2, -0.7], [0.5, 1.0]])
    np.testing.assert_array_equal(union(points)[:, 0], [1, 1, 0, 0])
    assert (tmp_path / "regions.png").stat().st_size > 5_000


def test_gates(tmp_path):
    """Each unit has its truth table; XOR and its opposite alone have none, and XOR takes three."""
    single, two = runpy.run_path(str(EXAMPLES / "gates.py"))["main"](tmp_path / "gates.png")
    assert len(single) == 14
    assert not {"0110", "1001"} & set(single)
    for truth, (a, b, bias) in single.items():
        rows = [a * x + b * y + bias >= 0 for x in (0, 1) for y in (0, 1)]
        assert "".join(str(int(row)) for row in rows) == truth
    assert two == "0110"
    assert (tmp_path / "gates.png").stat().st_size > 5_000


def test_universal_approximation(tmp_path):
    """The medians of 20 starts; 7.26e-9 and 1.458e-4 are the best of three units for two of them.

    On |x| a start ends in the better valley a little more often than not.
    """
    main = runpy.run_path(str(EXAMPLES / "universal_approximation.py"))["main"]
    errors = main(picture=tmp_path / "fits.png")
    for of, below in zip(errors.values(), (1e-9, 1e-8, 1.5e-4, 1e-12), strict=True):
        assert len(of) == 20
        assert np.median(of) < below
    np.testing.assert_allclose(errors["|x|"].min(), 1.458e-4, rtol=1e-3)
    assert (tmp_path / "fits.png").stat().st_size > 10_000


def test_saturation(tmp_path):
    """Both start at 0.98; after 100 steps squares have hardly moved, cross-entropy is done."""
    main = runpy.run_path(str(EXAMPLES / "saturation.py"))["main"]
    answers, accuracies = main(epochs=8, picture=tmp_path / "saturation.png")
    np.testing.assert_allclose([a[0] for a in answers.values()], 1 / (1 + np.exp(-4)), rtol=1e-6)
    assert answers["squares"][100] > 0.9 > 0.1 > answers["cross-entropy"][100]
    assert accuracies["cross-entropy"][-1] > 0.8 > 0.6 > accuracies["squares"][-1]
    assert (tmp_path / "saturation.png").stat().st_size > 10_000


def test_blackboard(tmp_path, capsys):
    traced = runpy.run_path(str(EXAMPLES / "blackboard.py"))["main"](tmp_path / "board.png")
    np.testing.assert_allclose(traced.value, 0.060447749, atol=1e-8)
    assert "0.1172" in capsys.readouterr().out
    assert (tmp_path / "board.png").stat().st_size > 10_000


def test_bases(tmp_path):
    """Random features, radial bases and ridge functions all find their function."""
    main = runpy.run_path(str(EXAMPLES / "bases.py"))["main"]
    errors = main(picture=tmp_path / "bases.png")
    assert max(errors.values()) < 0.05
    assert errors["projection pursuit"] < 1e-2
    assert (tmp_path / "bases.png").stat().st_size > 10_000


def test_hebb(tmp_path):
    """Without times only what fires at once counts; with them, before gains and after loses."""
    main = runpy.run_path(str(EXAMPLES / "hebb.py"))["main"]
    together, in_time = main(picture=tmp_path / "hebb.png")
    assert np.all(abs(together) < 0.03)
    before, after, unrelated = in_time[:, 0]
    assert before > 0.05 > -0.05 > after
    assert abs(unrelated) < 0.03
    assert (tmp_path / "hebb.png").stat().st_size > 5_000


COURSE = (EXAMPLES / "README.md").read_text()


def test_the_course_shows_every_script_once_and_every_guide():
    for folder, kind in ((EXAMPLES, "py"), (EXAMPLES / "guides", "md")):
        for path in folder.glob(f"*.{kind}"):
            link = f"]({path.relative_to(EXAMPLES)})"
            assert COURSE.count(link) == 1, link
    for link in re.findall(r"\]\(([^)#]+)", COURSE):
        assert (EXAMPLES / link).is_file(), link


def test_the_course_shows_every_picture():
    for picture in (EXAMPLES / "pictures").iterdir():
        assert COURSE.count(f"(pictures/{picture.name})") == 1, picture.name
        assert picture.stat().st_size <= 150_000


def test_a_script_draws_where_git_does_not_look():
    for path in EXAMPLES.glob("*.py"):
        places = re.findall(r"^PICTURE = (.*)$", path.read_text(), re.MULTILINE)
        wanted = f'Path(__file__).parent / "drawn" / "{path.stem}.png"'
        assert places == [wanted] or path.stem == "digits", path.name
    assert (EXAMPLES / "drawn" / ".gitignore").read_text().split("\n")[1:3] == ["*", "!.gitignore"]
