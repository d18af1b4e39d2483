"""Drawn shapes: what is said of them is what is in the image."""

import numpy as np
import pytest

from fnn import data

SCENES = data.shapes(200, size=24, most=3, noise=0.0, seed=4)


def test_shapes_are_where_the_image_is_not_empty():
    images, masks, boxes, classes = SCENES
    assert images.shape == (200, 24, 24, 1)
    np.testing.assert_array_equal(masks.sum(axis=1), images[..., 0] > 0)  # and none overlap
    gray = images[images > 0]
    assert 0.5 <= gray.min() < 0.55 < 0.95 < gray.max() <= 1
    np.testing.assert_array_equal(masks.any((2, 3)), classes > 0)
    assert set(classes.ravel()) == {0, 1, 2, 3}
    assert set((classes > 0).sum(axis=1)) == {1, 2, 3}
    assert (boxes[classes == 0] == 0).all()


def test_a_box_is_the_smallest_around_its_mask():
    for masks, boxes, classes in zip(*SCENES[1:], strict=True):
        for mask, (top, left, bottom, right), kind in zip(masks, boxes, classes, strict=True):
            if kind:
                assert mask.sum() == mask[top:bottom, left:right].sum()
                ends = mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]
                assert all(end.any() for end in ends)


def test_squares_fill_their_boxes_disks_and_triangles_do_not():
    there = SCENES.classes > 0
    sides = SCENES.boxes[..., 2:] - SCENES.boxes[..., :2]
    filled = SCENES.masks.sum((2, 3))[there] / np.prod(sides, axis=-1)[there]
    kinds = SCENES.classes[there]
    assert (filled[kinds == 2] == 1).all()
    assert 0.65 < filled[kinds == 1].mean() < 0.9
    assert 0.45 < filled[kinds == 3].mean() < 0.7
    points_up = SCENES.classes == 3
    for mask, box in zip(SCENES.masks[points_up], SCENES.boxes[points_up], strict=True):
        assert mask[: (box[0] + box[2]) // 2].sum() < mask.sum() / 2


def test_middles_are_more_than_a_quarter_apart():
    middles = (SCENES.boxes[..., :2] + SCENES.boxes[..., 2:]) / 2
    for points, classes in zip(middles, SCENES.classes, strict=True):
        points = points[classes > 0]
        apart = np.abs(points[:, None] - points[None]).max(-1)
        assert (apart + 24 * np.eye(len(points)) > 6).all()


def test_cells_hold_one_shape_each_and_its_middle():
    places, held = SCENES.cells(6)
    assert places.shape == (200, 3)
    assert held.shape == (200, 36)
    there = SCENES.classes > 0
    np.testing.assert_array_equal((held > 0).sum(axis=1), there.sum(axis=1))
    found = np.take_along_axis(held, places, axis=1)
    np.testing.assert_array_equal(found[there], SCENES.classes[there])
    middles = (SCENES.boxes[..., :2] + SCENES.boxes[..., 2:]) / 2
    np.testing.assert_array_equal(np.stack(np.divmod(places, 6), -1)[there], middles[there] // 4)
    with pytest.raises(ValueError, match=r"Shapes.cells: expected a cell or more, got 0; try 6"):
        SCENES.cells(0)


def test_labels_noise_and_seed():
    np.testing.assert_array_equal(SCENES.labels > 0, SCENES.inputs[..., 0] > 0)
    for i, kind in enumerate(SCENES.classes[0]):
        assert (SCENES.labels[0][SCENES.masks[0, i]] == kind).all()
    one, same, other = (data.shapes(20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.inputs, same.inputs)
    assert np.abs(one.inputs - other.inputs).max() > 0.1
    noise = one.inputs[..., 0][one.labels == 0]
    assert abs(noise.std() - 0.1) < 0.005


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, r"shapes: expected n 1 or more, got 0; try n=1"),
        ({"size": 8}, r"shapes: expected size 16 or more, got 8"),
        ({"most": 0}, r"shapes: expected most from 1 to 6, got 0"),
        ({"most": 7}, r"shapes: expected most from 1 to 6, got 7"),
        ({"noise": -1.0}, r"shapes: expected noise 0 or more, got -1.0"),
        ({"noise": float("nan")}, r"shapes: expected noise 0 or more, got nan"),
    ],
)
def test_shapes_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        data.shapes(**wrong)
