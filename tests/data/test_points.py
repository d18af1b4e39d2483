"""Patterns in the plane: their shapes, their classes and heights, and what is refused."""

import re

import numpy as np
import pytest

from fnn import data

MAKERS = data.spirals, data.xor, data.clusters, data.sine, data.plane


@pytest.mark.parametrize("maker", MAKERS)
def test_seeds_repeat_and_noise_moves(maker):
    still, again, other = maker(60, noise=0.0), maker(60, noise=0.0), maker(60, noise=0.2, seed=1)
    np.testing.assert_array_equal(still.inputs, again.inputs)
    assert still.inputs.shape == (60, 2)
    assert still.targets.shape == (60,)
    assert not np.array_equal(still.inputs, other.inputs)
    assert maker(1).inputs.shape == (1, 2)


@pytest.mark.parametrize("maker", MAKERS[:3])
def test_classes_are_balanced(maker):
    targets = maker(1000).targets
    assert targets.dtype == np.int32
    assert abs(targets.mean() - 0.5) < 0.05


def test_one_arm_is_the_other_turned_by_half():
    inputs, targets = data.spirals(100, turns=2.0, noise=0.0)
    np.testing.assert_allclose(inputs[targets == 1], -inputs[targets == 0], atol=1e-12)
    radii = np.linalg.norm(inputs[targets == 0], axis=1)
    np.testing.assert_allclose([radii[0], radii[-1]], [0.1, 1.0])
    angles = np.unwrap(np.arctan2(*inputs[targets == 0][5:].T[::-1]))
    assert (np.diff(angles) > 0).all()


def test_noise_has_the_size_that_was_asked_for():
    moved, still = data.clusters(4000, noise=0.3), data.clusters(4000, noise=0.0)
    np.testing.assert_allclose((moved.inputs - still.inputs).std(0), 0.3, rtol=0.05)
    heights = data.plane(4000, noise=0.3)
    np.testing.assert_allclose((heights.targets - heights.inputs.mean(1)).std(), 0.3, rtol=0.05)
    turns = 2.0  # in units of the distance between arms
    moved = data.spirals(4000, turns=turns, noise=0.5).inputs
    moved = moved - data.spirals(4000, turns=turns, noise=0.0).inputs
    np.testing.assert_allclose(moved.std(), 0.5 * 0.45 / turns, rtol=0.05)


@pytest.mark.parametrize("maker", MAKERS)
def test_numbers_that_cannot_be_are_refused(maker):
    name = maker.__name__
    with pytest.raises(
        ValueError, match=f"{name}: expected n to be a whole number, 1 or more, got 0"
    ):
        maker(0)
    for noise in (-1.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=f"{name}: expected noise to be 0 or more, got {noise}"
        ):
            maker(10, noise=noise)


def test_spirals_turn():
    with pytest.raises(
        ValueError, match=re.escape("spirals: expected turns above 0, a finite number, got 0; try")
    ):
        data.spirals(10, turns=0)
