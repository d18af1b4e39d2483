"""How a training went, drawn: with validation and without, short, and with what is not finite."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fnn import plots
from fnn.training import Fit, History, Stop
from fnn.training.account import Ending


def drawn(value, steps=None, **validation):
    value = np.array(value, float)
    steps = np.arange(1, len(value) + 1) if steps is None else np.array(steps)
    history = History(value, steps, {name: np.array(seen) for name, seen in validation.items()})
    fit = Fit((), (), history, Ending(Stop.BUDGET, "All."))
    axes = plots.history(Figure().subplots(), fit)
    axes.legend()
    axes.figure.canvas.draw()
    return axes, {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_a_history_of_steps_alone():
    axes, lines = drawn([4.0, 1.0, 2.0])
    assert lines == {
        "value": [[1, 4], [2, 1], [3, 2]],
        "lowest: 1 after step 2": [[2, 1]],
    }
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "value")


def test_a_history_of_rounds_with_validation():
    axes, lines = drawn([4.0, 2.0, 2.0, 0.0], steps=[2, 4], loss=[3.0, 5.0], accuracy=[0.5, 0.6])
    assert lines["mean over a round"] == [[2, 3], [4, 1]]
    assert lines["validation loss"] == [[2, 3], [4, 5]]
    assert lines["lowest: 3 after step 2"] == [[2, 3]]
    assert axes.get_yscale() == "linear"


def test_one_step_is_a_point():
    axes, lines = drawn([3.0], loss=[2.0])
    assert lines["value"] == [[1, 3]]
    assert all(line.get_marker() == "o" for line in axes.lines)


def test_what_is_not_finite_is_a_cross_at_the_edge():
    axes, lines = drawn([4.0, np.inf, np.nan, 2.0])
    np.testing.assert_array_equal(np.isnan([y for _, y in lines["value"]]), [0, 1, 1, 0])
    assert lines["not finite"] == [[2, 1], [3, 1]]
    assert lines["lowest: 2 after step 4"] == [[4, 2]]
    assert axes.get_ylim()[1] < 10
    _, lines = drawn([np.nan])
    assert set(lines) == {"value", "not finite"}
    _, lines = drawn([])
    assert set(lines) == {"value"}


def test_a_history_itself_is_taken_and_other_things_are_not():
    history = History(np.array([1.0, 2.0]), np.array([1, 2]), {})
    axes = plots.history(Figure().subplots(), history)
    assert len(axes.lines) == 2
    with pytest.raises(TypeError, match="expected a Fit or its history, got dict; try"):
        plots.history(Figure().subplots(), {"loss": [1.0]})
