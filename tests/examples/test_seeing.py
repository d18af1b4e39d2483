"""Classes of pixels, boxes and masks of drawn shapes: what is asked, judged and learned."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from parts import seeing

from fnn import data, losses

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENES = data.shapes(60, seed=2)


@functools.cache
def script(name):
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_overlap_is_intersection_over_union():
    labels = jnp.array([[[0, 0], [1, 2]], [[3, 3], [1, 1]]])
    answers = jnp.array([[[0, 1], [1, 2]], [[3, 0], [1, 1]]])
    found = script("segnet")["overlap"](answers, labels)
    np.testing.assert_allclose(found, (1 / 3 + 3 / 4 + 1 + 1 / 2) / 4, rtol=1e-6)


def test_what_is_asked_of_yolo_is_in_the_scene():
    found = script("yolo")
    (images, places), (classes, sides, there) = found["asked"](SCENES)
    assert images.shape == (60, 24, 24, 1)
    assert classes.shape == (60, 36, 3)
    assert classes.sum() == there.sum() == (SCENES.classes > 0).sum()
    answers = np.zeros((60, 36, 4))
    for image, cells, boxes, present in zip(answers, places, sides, there, strict=True):
        image[cells[present > 0]] = boxes[present > 0]
    pixels = found["pixels"](answers)[np.arange(60)[:, None], places]
    boxes = found["filled"](SCENES.boxes)
    np.testing.assert_array_equal(pixels[there > 0], boxes[there > 0])
    sizes = np.prod(SCENES.boxes[..., 2:] - SCENES.boxes[..., :2], axis=-1)
    np.testing.assert_array_equal(boxes.sum((2, 3)), sizes)
    logits = np.where(classes > 0, 1.0, -1.0)
    score = seeing.score
    assert score(logits, found["pixels"](answers), boxes, SCENES.classes) == (1, 1)


def test_score_counts_wrong_classes_places_and_seconds():
    """Of four found one has the wrong class, one overlaps too little, one is found twice."""
    score = seeing.score
    truth, kinds = np.zeros((1, 3, 4, 4), bool), np.array([[1, 2, 0]])
    truth[0, 0, :2], truth[0, 1, 2:] = True, True
    found, logits = np.zeros((1, 5, 4, 4), bool), np.full((1, 5, 3), -1.0)
    found[0, 0, :2], logits[0, 0, 0] = True, 1  # right
    found[0, 1, :2, :3], logits[0, 1, 0] = True, 1  # right once more
    found[0, 2, 2:], logits[0, 2, 0] = True, 1  # of the wrong class
    found[0, 3, 3], logits[0, 3, 1] = True, 1  # half of it, and not more
    found[0, 4, 2:], logits[0, 4, 1] = True, -1  # not found
    assert score(logits, found, truth, kinds) == (1 / 4, 1 / 2)


def test_what_is_asked_of_solo_are_masks_of_half_the_size():
    found = script("solo")
    (_, places), (_, halves, there) = found["asked"](SCENES)
    np.testing.assert_allclose(4 * halves.sum((2, 3)), SCENES.masks.sum((2, 3)))
    pixels = found["pixels"](jnp.asarray(halves) - 0.5)
    both = (pixels & SCENES.masks).sum((2, 3))[there > 0]
    either = (pixels | SCENES.masks).sum((2, 3))[there > 0]
    assert (both / either).min() > 0.6
    assert len({tuple(sorted(p[t > 0])) for p, t in zip(places, there, strict=True)}) > 30


@pytest.mark.parametrize("name", ["yolo", "solo"])
def test_losses_of_heads_have_diagonal_curvature(name):
    loss = script(name)["loss"]
    shape = (2, 4) if name == "yolo" else (2, 3, 3)
    keys = jax.random.split(jax.random.key(0), 4)
    outputs = {"classes": jax.random.normal(keys[0], (4, 3))}
    outputs["found"] = jax.random.normal(keys[1], shape)
    target = (jnp.eye(3)[jnp.array([0, 1, 2, 0])], jax.random.uniform(keys[2], shape))
    target = (*target, jnp.array([1.0, 0.0]))
    flat, unravel = ravel_pytree(outputs)
    hessian = jax.jit(jax.hessian(lambda flat: loss(unravel(flat), target)))(flat)
    B, s = jax.jit(losses.curvature(losses.separable(loss)))(outputs, target)
    np.testing.assert_allclose(B @ B.T, hessian, atol=1e-12)
    gradient = jax.grad(lambda flat: loss(unravel(flat), target))(flat)
    np.testing.assert_allclose(B @ s, gradient, atol=1e-12)  # it is complete


@pytest.mark.gate
def test_yolo_learns_to_find(tmp_path):
    """Most boxes that Adam has found after 600 steps are right."""
    scores = script("yolo")["main"](steps=(600, 0), picture=tmp_path / "yolo.png")
    precision, recall = scores["Adam"]
    assert precision > 0.5
    assert recall > 0.2
    assert (tmp_path / "yolo.png").stat().st_size > 10_000


@pytest.mark.gate
def test_yolo_by_both_rules(tmp_path):
    scores = script("yolo")["main"](picture=tmp_path / "yolo.png")
    assert scores["Adam"][0] > 0.85
    assert min(scores["K-FAC"]) > 0.6


@pytest.mark.gate
def test_solo_finds_masks(tmp_path):
    """K-FAC has found less after 240 steps, and the script says so."""
    scores = script("solo")["main"](picture=tmp_path / "solo.png")
    assert min(scores["Adam"]) > 0.6
    assert (tmp_path / "solo.png").stat().st_size > 10_000


@pytest.mark.gate
def test_segnet_overlaps(tmp_path):
    shares = script("segnet")["main"](steps=(1000, 100), picture=tmp_path / "segnet.png")
    assert shares["Adam"] > 0.88
    assert shares["K-FAC"] > 0.5
    assert (tmp_path / "segnet.png").stat().st_size > 10_000
