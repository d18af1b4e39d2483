"""Seeing a training run: callbacks, progress, loggers, reprs and frames."""

import csv
import functools
import io
import itertools
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import layers, progress, rules
from fnn.training import Callback, Checkpoints, Stop, fit, segments, trail
from tests.line import loss, model

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.fold_in(KEY, 1), (10, 3))
TARGETS = INPUTS @ jnp.array([1.0, -2.0, 0.5]) + 0.3
DATA = INPUTS, TARGETS
START = {"weight": jnp.zeros(3), "bias": jnp.zeros(())}
RULE, OBJECTIVE = optax.adam(0.1), fnn.Objective(model, loss)
MINI = {"batch_size": 4, "key": KEY}  # three steps an epoch
train = functools.partial(fit, RULE, OBJECTIVE, START, DATA)


def assert_same(one, other):
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


# Callbacks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def each():
    """What a callback at every step of nine epochs saw, and the whole fit."""
    fits = []
    whole = train(**MINI, epochs=9, callback=Callback(fits.append, steps=1))
    return fits, whole


@pytest.mark.parametrize("steps", [1, 4, 13, 26, 27])
def test_a_callback_at_a_step_sees_the_fit_of_so_many_steps(each, steps):
    fits, _ = each
    shorter = train(**MINI, steps=steps)
    assert_same((fits[steps - 1].params, fits[steps - 1].state), (shorter.params, shorter.state))
    np.testing.assert_array_equal(fits[steps - 1].history.value, shorter.history.value)


def test_a_callback_at_every_step_is_called_once_each_and_changes_nothing(each):
    fits, whole = each
    assert [len(at.history.value) for at in fits] == list(range(1, 28))
    assert [len(at.history.steps) for at in fits] == [n // 3 for n in range(1, 28)]
    assert {at.stopped for at in fits} == {Stop.RUNNING}
    assert "the value was" in str(fits[3].stopped)
    unwatched = train(**MINI, epochs=9)
    assert_same((whole.params, whole.state), (unwatched.params, unwatched.state))
    np.testing.assert_array_equal(whole.history.value, unwatched.history.value)


@pytest.mark.parametrize(("steps", "seen"), [(5, [5, 10, 15, 20, 25, 27]), (30, [27])])
def test_a_callback_counts_steps_over_rounds_and_sees_the_end(each, steps, seen):
    fits, _ = each
    some = []
    train(**MINI, epochs=9, callback=Callback(some.append, steps=steps))
    assert [len(at.history.value) for at in some] == seen
    for at in some:
        assert_same(at.params, fits[len(at.history.value) - 1].params)


def test_large_models_are_handed_out_where_segments_end(each, monkeypatch):
    """Nothing is kept within segments: as though two marks were more than there is room for."""
    fits, _ = each
    monkeypatch.setattr(trail, "_BYTES", 100)
    rounds, steps = [], []
    train(**MINI, epochs=8, callback=rounds.append)
    train(**MINI, epochs=8, callback=Callback(steps.append, steps=6))
    for seen, every in ((rounds, 3), (steps, 6)):
        assert [len(at.history.value) for at in seen] == list(range(every, 25, every))
        assert isinstance(seen[0].params["bias"], jax.Array)
        for at in seen:
            assert_same(at.params, fits[len(at.history.value) - 1].params)


def test_marks_of_a_stream():
    batches = [(INPUTS[i : i + 2], TARGETS[i : i + 2]) for i in range(0, 10, 2)]
    seen = []
    whole = fit(RULE, OBJECTIVE, START, batches, epochs=3, callback=Callback(seen.append, steps=2))
    assert [len(at.history.value) for at in seen] == [2, 4, 6, 8, 10, 12, 14, 15]
    shorter = fit(RULE, OBJECTIVE, START, batches, steps=8)
    assert_same(seen[3].params, shorter.params)
    stop = Callback(lambda at: len(at.history.value) == 8, steps=1)
    stopped = fit(RULE, OBJECTIVE, START, batches, epochs=3, callback=stop)
    assert stopped.stopped == Stop.CALLBACK
    assert_same(stopped.params, shorter.params)
    assert len(whole.history.value) == 15


def test_a_callback_that_stops_amid_a_segment_leaves_a_training_that_goes_on(tmp_path):
    """The steps after it are dropped, and what is kept goes on with the same bits."""
    stop = Callback(lambda at: len(at.history.value) == 14, steps=1)
    options = MINI | {"epochs": 9, "checkpoint": Checkpoints(tmp_path, seconds=0)}
    stopped = train(**options, callback=stop)
    assert stopped.stopped == Stop.CALLBACK
    assert len(stopped.history.value) == 14
    assert isinstance(stopped.params["bias"], jax.Array)
    shorter = train(**MINI, steps=14)
    assert_same((stopped.params, stopped.state), (shorter.params, shorter.state))
    on, whole = train(**options), train(**MINI, epochs=9)
    assert_same((on.params, on.state), (whole.params, whole.state))


def test_with_patience_a_callback_after_rounds_sees_the_best_and_one_by_steps_what_is_trained():
    rounds, steps = [], []
    options = {"steps": 40, "validation": (INPUTS, -TARGETS), "patience": 25}
    train(**options, callback=rounds.append)
    train(**options, callback=Callback(steps.append, steps=1))
    for number, at in enumerate(rounds, 1):
        best = 1 + int(np.argmin(at.history.validation["loss"][:number]))
        assert_same(at.params, steps[best - 1].params)
    assert not np.array_equal(rounds[-1].params["bias"], steps[-1].params["bias"])


def test_a_callback_never_sees_what_was_not_taken():
    fits = []
    sqrt = fnn.Objective(lambda params, x: jnp.sqrt(params["bias"] - 0.5) * x[0], loss)
    start = {"bias": jnp.array(1.0)}
    rule = optax.sgd(0.3)
    whole = fit(rule, sqrt, start, DATA, **MINI, epochs=20, callback=Callback(fits.append, steps=1))
    if whole.stopped == Stop.NON_FINITE:
        assert all(np.isfinite(at.params["bias"]) for at in fits)
        assert fits[-1].stopped == Stop.NON_FINITE
    assert len(fits) >= 1


def test_a_callback_by_seconds_is_called_where_fit_looks_anyway(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    seen = []
    callback = Callback(lambda at: seen.append(len(at.history.value)), seconds=2)
    train(steps=3000, tolerance=0, callback=callback)
    assert seen == sorted(set(seen))
    assert seen[-1] == 3000


def test_what_watches_costs_no_smaller_segments_and_no_compilation(monkeypatch):
    """By seconds the compiled program is the one without a callback; by steps it is one more."""
    asked = []
    advance = fnn.training.stretches.advance
    monkeypatch.setattr(
        "fnn.training.stretches.advance",
        lambda plan, capacity, *rest: asked.append(capacity) or advance(plan, capacity, *rest),
    )
    monkeypatch.setattr(segments, "SECONDS", 1e9)  # as though no time went by
    options = {"steps": 3000, "tolerance": 0}
    train(**options)
    alone, asked[:] = list(asked), []
    train(**options, callback=Callback(lambda _: None, seconds=1e-9))
    assert asked == alone
    asked.clear()
    train(**options, callback=lambda _: None)
    assert len(set(asked)) == 1
    assert len(asked) <= len(alone) + 2


@pytest.mark.parametrize(
    ("callback", "error", "message"),
    [
        (Callback(print, steps=0), ValueError, "steps=.* above 0, got 0; try 1 for every step"),
        (Callback(print, steps=1.5), TypeError, "steps=.* a whole number above 0, got 1.5"),
        (Callback(print, steps=True), TypeError, "got True"),
        (Callback(print, seconds=0), ValueError, "seconds=.* above 0, got 0; try 5.0"),
        (Callback(print, seconds="5 s"), TypeError, "got '5 s'"),
        (Callback(print, seconds=float("nan")), ValueError, "got nan"),
        (Callback(print, seconds=1.0, steps=1), ValueError, "by seconds or by steps"),
        (3, TypeError, "expected callback.fit. -> bool . None, got int"),
    ],
)
def test_callbacks_that_are_none(callback, error, message):
    with pytest.raises(error, match=message):
        train(steps=1, callback=callback)


def test_more_than_memory_holds_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(trail, "_MOST_BYTES", 250)
    with pytest.raises(ValueError, match=r"got 3 times .* try Callback\(\.\.\., steps=2\)"):
        train(**MINI, epochs=2, callback=Callback(print, steps=1))


# Loggers ------------------------------------------------------------------------------------------

GUIDE = Path(fnn.__file__).parents[1] / "examples" / "guides" / "watching.md"


def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    fitted = names["fitted"]
    assert int(rows[-1]["steps"]) == len(fitted.history.value)
    assert rows[-1]["loss"] == str(fitted.history.validation["loss"][-1].item())
    written = names["scalars"]
    assert [step for name, _, step in written if name == "value"] == list(
        range(len(fitted.history.value))
    )
    assert len(GUIDE.read_text().splitlines()) <= 100


def test_a_model_survives_a_logger_whose_disk_is_full():
    def log(at):
        if len(at.history.value) == 7:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as failure:
        train(**MINI, epochs=5, callback=Callback(log, steps=1))
    kept = failure.value.fit
    assert_same(kept.params, train(**MINI, steps=7).params)
    assert isinstance(kept.params["bias"], jax.Array)
    assert "7 steps" in failure.value.__notes__[0]
    assert "still running" in str(kept.stopped).lower()


# Progress -----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


class Writer:
    """What a program puts in the place of its standard error, without all of a file's methods."""

    def __init__(self):
        self.text = io.StringIO()
        self.write, self.flush, self.getvalue = self.text.write, self.text.flush, self.text.getvalue


class Closed(Terminal):
    """A stream that nobody reads any more."""

    def write(self, _):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(
    ("stream", "asked", "shows"),
    [
        (Terminal(), None, False),  # it is over before a second has gone by
        (Terminal(), True, True),
        (Terminal(), False, False),
        (io.StringIO(), None, False),
        (io.StringIO(), True, True),  # at the end, a line
        (Writer(), None, False),
        (Writer(), True, True),
        (Closed(), True, False),
        (None, True, False),
    ],
)
def test_who_shows_progress(monkeypatch, stream, asked, shows):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_PATIENCE", 1e9)  # it is over sooner, on a busy machine too
    fitted = train(steps=20, progress=asked)
    assert fitted.stopped == Stop.BUDGET
    if stream is not None:
        assert ("100%" in stream.getvalue()) == shows


def told(monkeypatch, place, asked, **pauses):
    """What stands in a stream after some work of no time, with other pauses."""
    for name, seconds in pauses.items():
        monkeypatch.setattr(progress, name, seconds)
    monkeypatch.setattr(progress, "surroundings", lambda: place)
    with progress.shown(asked, "fit") as say:
        say(0.25, "value 2")
        say(0.5, "value 1")
    return place.stream.getvalue()


def test_a_terminal_has_a_line_that_is_rewritten_and_cleared(monkeypatch):
    text = told(monkeypatch, progress.Place(Terminal(), True, False), True, _PAUSE=0.0)
    lines = text.split("\r")[1:]
    assert lines[0].startswith(" 25% [#####---------------] 0 s")
    assert lines[1].startswith(" 50% [##########----------] 0 s")
    assert lines[2].strip() == lines[3] == ""
    assert "\n" not in text


def test_a_notebook_keeps_the_last_line(monkeypatch, capsys):
    shell = types.SimpleNamespace(kernel=object())
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert progress.surroundings() == progress.Place(sys.stdout, True, True)
    train(steps=20, progress=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.endswith("\n")
    assert "100%" in out.split("\r")[-1]


def test_a_pipe_has_a_line_every_few_seconds(monkeypatch):
    place = progress.Place(io.StringIO(), False, False)
    said = told(monkeypatch, place, True, EVERY=0.0).splitlines()
    assert said == ["     0 s  25%  fit: value 2", "     0 s  50%  fit: value 1"]
    quiet = progress.Place(io.StringIO(), False, False)
    assert told(monkeypatch, quiet, None, EVERY=0.0) == ""


def test_progress_is_a_boolean():
    with pytest.raises(TypeError, match="progress to be True, False or None, got 'bar'"):
        train(steps=1, progress="bar")


# At a glance --------------------------------------------------------------------------------------


def test_a_fit_of_a_million_parameters_prints_in_a_few_lines(each):
    _, whole = each
    large = whole._replace(params={"weight": np.zeros((1000, 1000))})
    text = repr(large)
    assert "1,000,000 parameters" in text
    assert "27 steps: value" in text
    assert "All steps asked for were taken." in text
    assert len(text) < 500
    assert len(text.splitlines()) <= 3
    page = large._repr_html_()
    assert page.count("<svg") == 1
    assert len(page) < 3000
    assert "1,000,000 parameters" in page


def test_a_fit_stays_a_tuple(each):
    _, whole = each
    params, state, history, stopped = whole
    assert whole == whole._replace(params=params)
    assert (state, stopped) == (whole.state, whole.stopped)
    assert repr(history).startswith("<history of 27 steps: value ")
    assert len(jax.tree.leaves(whole.history)) == 2


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([1.0], "▅"),
        ([2.0, 2.0], "▅▅"),
        ([1.0, 10.0, 100.0], "▁▅█"),
        ([0.0, 1.0, 2.0], "▁▅█"),
        ([1.0, np.nan, 2.0], "▁ █"),
        ([np.nan, np.inf], "  "),
    ],
)
def test_sparklines_of_all_kinds(values, bars):
    assert fnn.training.glance.sparkline(np.array(values)) == bars


def test_what_has_arrays_prints_without_them():
    network = layers.serial(layers.dense(2), layers.dense(1))
    assert repr(network) == "<layer serial>"
    value_fn = OBJECTIVE.on(DATA) + 2.0 * fnn.l2(0.1)
    assert repr(OBJECTIVE) == "<objective: loss of model>"
    assert repr(OBJECTIVE + fnn.l2(1.0)) == "<objective: loss of model + penalty half_squared_norm>"
    assert repr(value_fn) == (
        "<value function: mean over 10 examples of loss of model + 0.2 * penalty half_squared_norm>"
    )
    assert "array" in repr(jnp.ones(()) * value_fn)
    assert repr(fnn.Objective(lambda w, x: w * x)).startswith("<objective: half the squares of ")


def test_a_history_as_a_frame(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    whole = train(**MINI, epochs=2, validation=DATA)
    frame = whole.history.frame()
    assert list(frame) == ["step", "value", "validation_loss"]
    assert frame["step"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(frame["value"], whole.history.value)
    np.testing.assert_array_equal(np.isnan(frame["validation_loss"]), [True, True, False] * 2)
    assert frame["validation_loss"][5] == whole.history.validation["loss"][1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"History.frame: expected pandas.*'fnn\[pandas\]'"):
        whole.history.frame()


def test_second_order_rules_are_watched_too():
    """Their factorizations hold LAPACK's threads, and nothing is begun beside the callback."""
    fits = []
    rule = rules.levenberg_marquardt()
    whole = fit(rule, OBJECTIVE, START, DATA, steps=6, tolerance=0, callback=fits.append)
    assert [len(at.history.value) for at in fits] == list(range(1, len(whole.history.value) + 1))
    assert_same(fits[-1].params, whole.params)
