"""Pictures of networks show the numbers that they are of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fnn import Objective, losses, plots

RNG = np.random.default_rng(0)


@pytest.fixture
def axes():
    made = Figure().subplots()
    yield made
    made.figure.draw_without_rendering()


def test_regions_are_the_classes_and_boundaries_lie_between(axes):
    points = RNG.uniform(-1, 1, size=(20, 2))
    classes = (points[:, 0] > 0).astype(int)
    plots.decision_regions(
        axes, lambda x: jnp.stack([-x[0], x[0], x[1] - 1.5]), (-1, 1), (-2, 2),
        data=(points, classes),
    )  # fmt: skip
    answers = np.asarray(axes.images[0].get_array())
    assert (answers[0, 0], answers[0, -1], answers[-1, 150]) == (0, 1, 2)
    (left, right) = axes.lines
    assert left.get_xdata().max() < 0 < right.get_xdata().min()
    assert left.get_marker() != right.get_marker()
    assert len(axes.collections) == 3
    boundary = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    low = boundary[boundary[:, 1] < 1.4]
    np.testing.assert_allclose(low[:, 0], 0, atol=1e-6)


def test_one_output_is_two_classes_and_one_class_has_no_boundary(axes):
    plots.decision_regions(axes, lambda x: 1.0 + 0 * x[0], (0, 1), (0, 1))
    assert set(np.asarray(axes.images[0].get_array()).ravel()) == {1}
    assert not axes.collections


def test_fits_are_drawn_over_their_dashed_hidden_units(axes):
    x = RNG.permutation(np.linspace(-1, 1, 50))
    hidden = np.tanh(np.stack([x, 2 * x, x - 1], axis=1))
    plots.function_fit(axes, x, x**2, hidden @ [1, 2, 3], hidden)
    targets, outputs, _ = axes.lines
    assert targets.get_linestyle() == "None"
    assert np.all(np.diff(outputs.get_xdata()) > 0)
    (side,) = [other for other in axes.figure.axes if other is not axes]
    assert len(side.lines) == 3
    assert all(line.is_dashed() for line in side.lines)
    assert axes.get_zorder() > side.get_zorder()
    order = np.argsort(x)
    np.testing.assert_allclose(outputs.get_ydata(), (hidden @ [1, 2, 3])[order])
    alone = plots.function_fit(Figure().subplots(), x, x, x)
    assert len(alone.figure.axes) == 1


def test_slices_and_surfaces_are_the_loss_around_a_point(axes):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    ways = [{"a": jnp.array([1.0, 0.0]), "b": jnp.array(0.0)},
            {"a": jnp.array([0.0, 1.0]), "b": jnp.array(-1.0)}]  # fmt: skip

    def value_fn(p):
        return jnp.sum(p["a"] ** 2) + p["b"]

    plane = plots.along(value_fn, params, *ways)
    np.testing.assert_allclose(plane(jnp.array([2.0, -1.0])), 9 + 1 + 1.5)
    assert jax.grad(plane)(jnp.zeros(2)).tolist() == [2, 3]
    plots.loss_slice(axes, value_fn, params, {"one": ways[0], "other": ways[1]}, reach=2.0)
    one, other, point = axes.lines
    np.testing.assert_allclose(one.get_ydata()[[0, 100, 200]], [5.5, 5.5, 13.5])
    np.testing.assert_allclose(other.get_ydata()[[0, 200]], [3.5, 15.5])
    assert one.get_color() != other.get_color()
    assert point.get_xydata().tolist() == [[0, 5.5]]
    surface = plots.loss_surface(Figure().subplots(), value_fn, params, tuple(ways), reach=0.5)
    assert surface.get_xlim() == surface.get_ylim() == (-0.5, 0.5)
    assert surface.collections


def test_features_are_images_with_their_signs(axes):
    rows = RNG.normal(size=(5, 6))
    rows[4] = 0
    plots.features(axes, rows, (2, 3), columns=2)
    sheet = axes.images[0].get_array()
    assert sheet.shape == (8, 7)
    np.testing.assert_allclose(sheet[3:5, 4:], rows[3].reshape(2, 3) / np.abs(rows[3]).max())
    assert np.all(sheet.mask[2])
    assert len(axes.patches) == 5
    cool, white, warm = (axes.images[0].cmap(axes.images[0].norm(v))[:3] for v in (-1, 0, 1))
    np.testing.assert_allclose(cool, to_rgb(plots.COLORS[0]), atol=0.01)
    np.testing.assert_allclose(white, (1, 1, 1), atol=0.01)
    np.testing.assert_allclose(warm, to_rgb(plots.COLORS[1]), atol=0.01)


def test_codes_are_written_as_their_classes(axes):
    points = RNG.normal(size=(40, 2))
    classes = np.arange(40) % 8 + 5
    plots.codes(axes, points, classes)
    assert [shown.get_label() for shown in axes.collections] == [str(n) for n in range(5, 13)]
    for shown, number in zip(axes.collections, range(5, 13), strict=True):
        np.testing.assert_array_equal(shown.get_offsets(), points[classes == number])
        np.testing.assert_allclose(shown.get_facecolor()[0, :3], to_rgb(plots.style(number).color))
    for wrong in (points[:, :1], points[:5], points.T):
        with pytest.raises(ValueError, match=r"codes: expected points of shape \(40, 2\)"):
            plots.codes(axes, wrong, classes)


def test_confusion_counts_rows_of_classes(axes):
    targets, answers = np.array([0, 0, 0, 2]), np.array([0, 0, 2, 1])
    plots.confusion(axes, answers, targets)
    np.testing.assert_allclose(
        axes.images[0].get_array(), [[2 / 3, 0, 1 / 3], [0, 0, 0], [0, 1, 0]]
    )
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "2", (2, 0): "1", (1, 2): "1"}


def test_spectra_show_sizes_and_mark_the_negative(axes):
    hessian, counts = np.array([-1.0, 0.0, -1e-17, 3.0]), np.ones(2, int)
    plots.spectrum(axes, {"Hessian": hessian, "Gauss-Newton": counts})
    whole, negative, other = axes.lines
    np.testing.assert_array_equal(whole.get_ydata(), [3, 1, np.nan, np.nan])
    assert negative.get_xydata().tolist() == [[2, 1]]
    assert negative.get_markerfacecolor() == "white"
    assert other.get_ydata().tolist() == [1, 1]
    assert axes.get_yscale() == "log"


def test_a_model_of_pairs_gets_the_pictures_of_its_loss_alone():
    objective = Objective(lambda w, pair: w * pair[0] + pair[1].sum(), losses.half_squared_error)
    data = (RNG.normal(size=(5, 1)), RNG.normal(size=(5, 3))), RNG.normal(size=(5, 1))
    figures = plots.portraits(
        objective.on(data), jnp.ones(1), objective, data, key=jax.random.key(0)
    )
    assert set(figures) == {"slice", "surface", "spectrum"}
