"""Paths over a plane, as numbers and as pictures, a rule that diverges among them."""

import functools

import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fnn import Objective, plots, rules
from fnn.race import trajectories as module
from fnn.race.trajectories import RATES, SHOWN, STEPS, rules_on, trajectories

FAR = 2**0.5


def saddle(p):
    return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4


def rosenbrock(p):
    return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2


LANDSCAPE = plots.Landscape(
    "saddle", saddle, (-2, 2), (-2, 2), minima=[(0, -FAR), (0, FAR)], saddles=[(0, 0)]
)


@functools.cache
def walked():
    return trajectories(saddle, module.BESIDE_THE_RIDGE, rules_on("saddle"), STEPS["saddle"])


def wild():
    """Over 10^300 in a few steps, and then not finite; and one that goes round in the picture."""
    named = {"wild": rules.sgd(30.0), "sgd": rules.sgd(0.05)}
    return trajectories(saddle, [1.0, 0.5], named, 20)


# Numbers ------------------------------------------------------------------------------------------


def test_the_saddle_is_the_textbooks():
    """Momentum overshoots, sgd stays, RMSProp leaves, Newton is drawn in, saddle-free is not."""
    sgd, momentum, adagrad, rmsprop, adam, newton, free = walked().values()
    assert [name.split("(")[0] for name in walked()] == list(SHOWN)
    assert all(path.shape == (61, 2) for path in walked().values())
    assert all(path[0].tolist() == [-1.5, 1e-3] for path in walked().values())
    assert np.max(np.abs(sgd[:40, 1])) < 0.1  # it stays near the ridge
    assert np.max(momentum[:, 0]) > 0.5  # over the saddle
    assert np.max(momentum[:, 1]) > FAR + 0.3  # and over the minimum
    assert np.argmax(np.abs(rmsprop[:, 1]) > 0.3) < 5
    for path in (adagrad, rmsprop, adam, free):
        np.testing.assert_allclose(path[-1], [0, FAR], atol=0.1)
    np.testing.assert_allclose(newton[-1], [0, 0], atol=1e-12)


def test_a_path_is_that_of_the_loop():
    point = np.array([-1.5, 1e-3])
    for following in walked()["sgd(0.05)"][1:5]:
        point = point - 0.05 * np.array([2 * point[0], -2 * point[1] + point[1] ** 3])
        np.testing.assert_allclose(following, point, rtol=1e-12)


def test_rules_get_all_of_optaxs_contract():
    """Value, gradient and value function, residuals in it; plain optax is welcome."""
    residual = Objective(lambda p, _: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]]))
    value_fn = 2.0 * residual.on(jnp.zeros(1))

    def halve(updates, state, params, *, value, grad, value_fn):
        """Polyak's step towards 0, halved where it leads up."""
        step = -value / jnp.sum(grad**2) * updates
        return jnp.where(value_fn(params + step) < value, step, step / 2), state

    named = {
        "levenberg_marquardt": rules.levenberg_marquardt(),
        "halve": optax.GradientTransformationExtraArgs(lambda _: (), halve),
        "plain": optax.scale(-1e-3),
    }
    paths = trajectories(value_fn, [-1.2, 1.0], named, 60)
    np.testing.assert_allclose(paths["levenberg_marquardt"][-1], [1, 1], atol=1e-6)
    gradient = np.array([-215.6, -88.0])
    for factor, name in ((24.2 / np.sum(gradient**2), "halve"), (1e-3, "plain")):
        np.testing.assert_allclose(paths[name][1], [-1.2, 1] - factor * gradient, rtol=1e-12)


def test_a_rule_that_diverges_stays_at_its_last_finite_point():
    path = wild()["wild"]
    assert np.all(np.isfinite(path))
    assert np.max(np.abs(path)) > 1e100
    np.testing.assert_array_equal(path[-1], path[-2])


def test_rules_have_rates_that_suit_the_surface():
    assert list(rules_on("rosenbrock", ["sgd", "lbfgs"])) == ["sgd(0.001)", "lbfgs()"]
    assert list(rules_on("elsewhere", ["adam"])) == ["adam(0.1)"]
    assert all(set(rates) <= set(module.RULES) for rates in RATES.values())
    assert set(STEPS) == set(RATES)
    made = rules_on("beale", list(module.RULES))
    assert len(made) == len(module.RULES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: rules_on("saddle", ["adm"]), "did you mean 'adam'"),
        (lambda: rules_on("saddle", []), "try sgd"),
        (lambda: trajectories(saddle, [1.0], {}, 5), "two finite numbers"),
        (lambda: trajectories(saddle, [1.0, np.nan], {}, 5), "two finite numbers"),
        (lambda: trajectories(saddle, [1.0, 1.0], {}, 0), "at least one step"),
    ],
)
def test_misuse_raises(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


# Pictures -----------------------------------------------------------------------------------------


def read(file):
    """The pictures in a file, as numbers."""
    with Image.open(file) as film:
        return [
            np.asarray(film.convert("RGB"), dtype=int)
            for i in range(getattr(film, "n_frames", 1))
            if film.seek(i) is None
        ]


def lines(figure, label):
    return next(line for line in figure.axes[0].lines if line.get_label() == label)


def test_the_picture_shows_every_path_to_its_end(tmp_path):
    figure = plots.landscape_figure(LANDSCAPE, walked())
    figure.savefig(tmp_path / "saddle.png", dpi=60)
    assert read(tmp_path / "saddle.png")[0].shape == (300, 480, 3)
    for label, path in walked().items():
        np.testing.assert_array_equal(lines(figure, label).get_xydata(), path)
    ends = [line.get_xydata()[-1] for line in figure.axes[0].lines[1:14:2]]
    np.testing.assert_array_equal(ends, [path[-1] for path in walked().values()])
    np.testing.assert_array_equal(lines(figure, "minimum").get_xydata(), LANDSCAPE.minima)
    np.testing.assert_array_equal(lines(figure, "start").get_xydata()[0], [-1.5, 1e-3])


def test_paths_are_told_apart_without_color_and_the_legend_covers_none():
    figure = plots.landscape_figure(LANDSCAPE, walked())
    looks = [
        (lines(figure, name).get_marker(), lines(figure, name).get_color()) for name in walked()
    ]
    assert len({marker for marker, _ in looks}) == len({color for _, color in looks}) == 7
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *walked(), "start", "minimum", "saddle",
    ]  # fmt: skip
    assert legend.get_window_extent().x0 >= figure.axes[0].get_window_extent().x1


def test_half_of_the_picture_is_below_the_middle_height():
    axes = Figure().subplots()
    plots.contours(axes, rosenbrock, (-2, 2), (-1, 3))
    levels = axes.collections[0].levels
    x, y = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-1, 3, 201))
    np.testing.assert_allclose(np.mean(rosenbrock((x, y)) <= levels[9]), 0.5, atol=1e-3)
    assert len(levels) == 19
    assert levels[0] == pytest.approx(0, abs=1e-12)
    flat = Figure().subplots()
    plots.contours(flat, lambda p: 0 * p[0] + 1, (0, 1), (0, 1))
    assert not flat.collections


def test_a_path_that_diverges_breaks_no_picture(tmp_path):
    """It is drawn in its direction, to a hundred widths away at most."""
    figure = plots.landscape_figure(LANDSCAPE, wild())
    drawn = lines(figure, "wild").get_xydata()
    assert 2 < np.max(np.abs(drawn)) <= 400
    np.testing.assert_array_equal(drawn[:-1], wild()["wild"][: len(drawn) - 1])
    gone = wild()["wild"][len(drawn) - 1] - drawn[-2]
    left = drawn[-1] - drawn[-2]
    np.testing.assert_allclose(left / np.linalg.norm(left), gone / np.linalg.norm(gone), atol=1e-6)
    broken = {"nan": np.array([[1.0, 1.0], [0.5, np.nan], [0.1, 0.1]]), "gone": wild()["wild"]}
    figure = plots.landscape_figure(LANDSCAPE, broken)
    assert lines(figure, "nan").get_xydata().tolist() == [[1, 1]]
    file = plots.animate(tmp_path / "wild.gif", LANDSCAPE, broken, frames=3, dpi=40)
    assert len(read(file)) == 3


def test_the_animation_walks_the_paths_and_rests(tmp_path):
    file = plots.animate(tmp_path / "a.gif", LANDSCAPE, walked(), frames=5, seconds=1, dpi=50)
    frames = read(file)
    with Image.open(file) as film:
        assert film.info["loop"] == 0
        assert [film.seek(i) or film.info["duration"] for i in range(5)] == [200] * 4 + [2000]
    whole = plots.landscape_figure(LANDSCAPE, walked())
    whole.savefig(tmp_path / "whole.png", dpi=50)
    (still,) = read(tmp_path / "whole.png")
    apart = [np.mean(np.abs(frame - still) > 30) for frame in frames]
    assert apart == sorted(apart, reverse=True)
    assert 5 * apart[-1] < apart[0]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4, got 'a.avi'"):
        plots.animate(tmp_path / "a.avi", LANDSCAPE, walked())
    missing = {"animation.ffmpeg_path": str(tmp_path / "ffmpeg")}
    with matplotlib.rc_context(missing), pytest.raises(RuntimeError, match=r"try .* 'a.gif'"):
        plots.animate(tmp_path / "a.mp4", LANDSCAPE, walked())
    assert not list(tmp_path.iterdir())
