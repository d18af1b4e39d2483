"""Sequences: what was seen long ago, what is written backward, what comes next in a text."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def names(script):
    """What a script defines."""
    return runpy.run_path(str(EXAMPLES / f"{script}.py"))


def test_remembering(tmp_path, capsys):
    """By curvature Elman's network adds over 40 steps, and sees each number with slope 1."""
    picture = tmp_path / "picture.png"
    steps = {"Elman, adam": 200, "Elman, LM": 30}
    found = names("remembering")["main"](lengths=(40,), steps=steps, picture=picture)
    error, start, end = found["Elman, LM", 40]
    assert error < 0.01
    np.testing.assert_allclose(end, 1, atol=0.3)  # the sum's derivative, at any distance
    assert start[-5:].mean() < 0.3 * start[:5].mean()
    adam, _, lost = found["Elman, adam", 40]
    assert adam > 0.1
    assert abs(lost[-5:] - 1).mean() > 5 * abs(end[-5:] - 1).mean()
    assert picture.stat().st_size > 10_000
    assert "squared error" in capsys.readouterr().out


def test_adding():
    """One mark in either half; always saying 1 errs by the variance of two uniform numbers, 1/6."""
    adding = names("remembering")["adding"]
    inputs, targets = adding(jax.random.key(0), 7, examples=4000)
    np.testing.assert_array_equal(inputs[:, :3, 1].sum(axis=1), 1)
    np.testing.assert_array_equal(inputs[:, 3:, 1].sum(axis=1), 1)
    np.testing.assert_allclose(np.mean((targets - 1) ** 2), 1 / 6, atol=0.02)
    with pytest.raises(ValueError, match="length of 2 or more, got 0"):
        adding(jax.random.key(0), 0)


@pytest.mark.gate
def test_reversal(tmp_path, capsys):
    """K-FAC's network writes backward by itself, and looks along the anti-diagonal."""
    script, picture = names("reversal"), tmp_path / "picture.png"
    found = script["main"](epochs={"adam": 20, "kfac": 6}, picture=picture)
    for _, right, looks in found.values():
        assert right > 0.9
        np.testing.assert_array_equal(np.argmax(looks, axis=1), np.arange(6)[::-1])
        np.testing.assert_allclose(looks.sum(axis=1), 1, rtol=1e-5)
    assert found["kfac"][0][:30].min() < found["adam"][0][:30].min()
    assert picture.stat().st_size > 10_000
    assert "right" in capsys.readouterr().out
    with pytest.raises(ValueError, match="with a number in it"):
        script["main"](length=0, picture=picture)


def test_characters(tmp_path, capsys):
    """No count of the past and no network is below the grammar's entropy; both come near."""
    script, picture = names("characters"), tmp_path / "picture.png"
    plans = {"adam": {"epochs": 15, "batch_size": 16}}
    rate, counted, found, text = script["main"](plans=plans, picture=picture)
    assert min(counted) > rate
    assert counted[2] < 1.1 < 1.8 < counted[1]
    assert rate < found["adam"][-1] < counted[1] - 0.1
    assert len(text) == 92
    assert picture.stat().st_size > 10_000
    assert "bits per character" in capsys.readouterr().out


def test_counting():
    """A text of one character holds no bits, one that alternates none but for its start."""
    by_counts = names("characters")["by_counts"]
    one = np.zeros(300, int)
    np.testing.assert_allclose(by_counts(one, one, 3, 1), 0)
    zero, first, second = by_counts(*[np.arange(4000) % 2] * 2, 3, 2)
    np.testing.assert_allclose(zero, 1, atol=0.01)
    assert max(first, second) < 0.01
    with pytest.raises(ValueError, match="got an empty one"):
        by_counts(one[:0], one, 3, 1)
