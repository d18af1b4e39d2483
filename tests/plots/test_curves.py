"""Figures of measurements show medians, what arrived, and nothing that blows up."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fnn import plots


def axes():
    return Figure().subplots()


def test_curves_are_medians_at_what_each_seed_spent():
    x = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]])
    y = np.array([[8.0, 4.0, 2.0], [8.0, 4.0, 2.0], [8.0, 4.0, np.inf]])
    band = plots.band(plots.Curve(x, y))
    np.testing.assert_array_equal(band.x, [2, 4, 6])
    np.testing.assert_array_equal(band.median, [4, 4, 2])  # 4 8 4, then 2 4 inf, then 2 2 inf
    np.testing.assert_array_equal(band.high, [8, np.inf, np.inf])
    drawn = plots.curves(axes(), {"a": plots.Curve(x, y)}, target=3.0)
    np.testing.assert_array_equal(drawn.lines[0].get_xydata(), [[2, 4], [4, 4], [6, 2]])
    np.testing.assert_array_equal(drawn.lines[1].get_ydata(), [3, 3])
    assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "log")
    negative = plots.curves(axes(), {"a": plots.Curve(x, y - 5)})
    assert negative.get_yscale() == "linear"


def test_many_measurements_are_thinned_to_the_last():
    x = np.arange(1.0, 1001)[None]
    band = plots.band(plots.Curve(x, x))
    assert len(band.x) == 200
    np.testing.assert_array_equal(band.x, band.median)
    assert band.x[-1] == 1000


def test_what_blows_up_does_not_hide_the_rest():
    x = np.array([[1.0, 2.0]])
    named = {str(i): plots.Curve(x, np.array([[2.0, 1.0 + i]])) for i in range(3)}
    named["bad"] = plots.Curve(x, np.array([[1e10, 1e30]]))
    low, high = plots.curves(axes(), named).get_ylim()
    assert low < 1
    assert 20 <= high <= 30


def test_marks_are_the_seeds_that_arrived():
    named = {"a": np.array([3.0, 1.0, 2.0]), "b": np.array([5.0, np.inf, np.inf])}
    drawn = plots.arrivals(axes(), named)
    np.testing.assert_array_equal(drawn.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(drawn.lines[1].get_xdata(), [2, 2])
    np.testing.assert_array_equal(drawn.lines[2].get_xdata(), [5])
    assert len(drawn.lines) == 3  # no median: most of b missed
    assert [text.get_text() for text in drawn.texts] == ["reached", "3 of 3", "1 of 3"]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["a", "b"]


def test_a_profile_is_the_share_within_each_ratio():
    ratios = {"a": np.array([1.0, 2.0, 3.0, np.inf])}
    corners = plots.profile(axes(), ratios).lines[0].get_xydata()
    np.testing.assert_array_equal(corners, [[1, 0.25], [2, 0.5], [3, 0.75], [4, 0.75]])


def test_ranks_are_where_they_are_said_to_be():
    ranks = {"a": 1.2, "b": 2.1, "c": 2.7, "d": 4.0}
    drawn = plots.ranks(axes(), ranks, [("b", "c")], 0.8)
    ends = {line.get_xdata()[0] for line in drawn.lines if len(line.get_xdata()) == 3}
    assert ends == set(ranks.values())
    bars = [line.get_xdata() for line in drawn.lines if line.get_color() == plots.COLORS[1]]
    np.testing.assert_allclose(bars, [[2.1, 2.7]], atol=0.05)
    texts = {text.get_text() for text in drawn.texts}
    assert {"a  1.20", "b  2.10", "2.70  c", "4.00  d", "CD = 0.80"} <= texts


def test_a_dot_for_each_of_a_group_and_no_ruler_without_a_difference():
    ranks = {"d": 4.0, "a": 1.2, "b": 2.1, "c": 2.7}
    drawn = plots.ranks(axes(), ranks, [("c", "a")])
    (dots,) = drawn.collections
    np.testing.assert_allclose(dots.get_offsets(), [[1.2, 0.5], [2.7, 0.5]])
    assert not any("CD" in text.get_text() for text in drawn.texts)
    panel = plots.rank_panel(ranks, [("c", "a")])
    assert (panel.groups, panel.members, panel.ruler) == ([(0, 2)], [[0, 2]], None)


def test_a_sweep_is_drawn_in_order_with_crosses_for_what_diverged():
    sweep = plots.Sweep(
        np.array([0.1, 0.01, 1.0]), np.array([[1.0, 3.0], [2.0, 2.0], [np.inf] * 2])
    )
    drawn = plots.sensitivity(axes(), {"b": sweep}, plots.styles("ab"))
    line, crosses = drawn.lines
    np.testing.assert_array_equal(line.get_xydata()[:2], [[0.01, 2], [0.1, 2]])
    assert line.get_color() == plots.style(1).color
    np.testing.assert_array_equal(crosses.get_xydata(), [[1.0, drawn.get_ylim()[1]]])


def test_twenty_rules_have_a_look_and_a_color_blind_safe_color_each():
    assert len({plots.style(i)[:2] for i in range(20)}) == 20
    assert "#000000" not in plots.COLORS  # a dark page would hide it


def test_bands_go_on_outside_of_the_view_for_who_zooms_out():
    bands = {"a": plots.Band(np.ones(1), np.full(1, 0.5), np.full(1, 2.0), np.full(1, np.inf))}
    for beyond, low, high in ((0, 1.0, 4.0), (1, 0.5, 40.0)):
        (ribbon,) = plots.curve_panel(bands, (1.0, 4.0), beyond=beyond).ribbons
        assert (ribbon.low[0], ribbon.high[0]) == (low, high)
    panel = plots.curve_panel(bands, (-1.0, 4.0), beyond=1)
    assert not panel.logarithmic
    assert panel.limits == pytest.approx((-1.25, 4.25))
    assert panel.ribbons[0].high.tolist() == [9]


def test_ranks_are_ordered_and_the_ruler_is_no_longer_than_the_axis():
    panel = plots.rank_panel({"b": 2.0, "a": 1.0, "c": 3.0}, [("b", "c")], 9.0)
    assert panel.labels == ["a", "b", "c"]
    assert panel.groups == [(1, 2)]
    assert panel.ruler == 2
