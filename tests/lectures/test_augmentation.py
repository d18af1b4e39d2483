"""Images changed at random: by how much, on which side, and under `jit` and `vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fnn import data

KEYS = jax.random.split(jax.random.key(0), 200)
IMAGE = jnp.asarray(data.digits().inputs[5].reshape(8, 8))
CHANGES = {
    "shift": functools.partial(data.shift, pixels=1.5),
    "rotate": functools.partial(data.rotate, angle=0.4),
    "zoom": functools.partial(data.zoom, factor=1.3),
    "add_noise": functools.partial(data.add_noise, stddev=0.1),
}


def middle_of_mass(image):
    return np.array(ndimage.center_of_mass(np.asarray(image, float)))


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_pure_functions_of_key_and_image(name):
    """Mapped and compiled they are the same as one by one; channels go together; keys differ."""
    change = CHANGES[name]
    many = jax.jit(jax.vmap(change, (0, None)))(KEYS[:5], IMAGE)
    assert many.shape == (5, 8, 8)
    np.testing.assert_allclose(many[3], change(KEYS[3], IMAGE), atol=1e-12)
    assert np.abs(many[0] - many[1]).max() > 1e-3
    assert change(KEYS[0], IMAGE.astype(jnp.float32)).dtype == jnp.float32
    if name != "add_noise":
        colors = jnp.stack([IMAGE, 2 * IMAGE], axis=-1)
        expected = jnp.stack([many[0], 2 * many[0]], axis=-1)
        np.testing.assert_allclose(change(KEYS[0], colors), expected, atol=1e-12)
        still = {"shift": {"pixels": 0}, "rotate": {"angle": 0}, "zoom": {"factor": 1}}[name]
        np.testing.assert_allclose(change(KEYS[0], IMAGE, **still), IMAGE, atol=1e-12)


def test_resample_is_scipy():
    matrix, middle = np.array([[0.9, 0.3], [-0.2, 1.1]]), np.full(2, 3.5)
    offset = np.array([0.4, -0.7])
    start = middle - matrix @ middle + offset
    theirs = ndimage.affine_transform(
        np.asarray(IMAGE), matrix, start, order=1, mode="grid-constant"
    )
    assert np.abs(theirs).max() > 0.5
    np.testing.assert_allclose(data.resample(IMAGE, matrix, offset), theirs, atol=1e-12)


def test_shifts_go_as_far_as_they_say_in_all_directions():
    blob = jnp.zeros((9, 9)).at[4, 4].set(1.0)
    moved = jax.vmap(CHANGES["shift"], (0, None))(KEYS, blob)
    ways = np.array([middle_of_mass(image) for image in moved]) - 4
    assert 1.4 < np.abs(ways).max() <= 1.5
    np.testing.assert_allclose(ways.mean(axis=0), 0, atol=5 * 1.5 / np.sqrt(3 * len(KEYS)))
    np.testing.assert_allclose(np.asarray(moved).sum(axis=(1, 2)), 1)


def test_rotations_and_zooms_keep_the_middle_and_reach_their_limits():
    bar = jnp.zeros((31, 31)).at[14:17, 3:28].set(1.0)

    def second(image):
        rows, columns = np.mgrid[:31, :31] - 15
        weight = np.asarray(image) / np.sum(image)
        return np.array([
            [np.sum(weight * a * b) for a in (rows, columns)] for b in (rows, columns)
        ])

    turned = jax.vmap(CHANGES["rotate"], (0, None))(KEYS, bar)
    angles = []
    for image in turned:
        np.testing.assert_allclose(middle_of_mass(image), 15, atol=1e-6)
        _, along = np.linalg.eigh(second(image))[1].T
        angles.append(np.arctan2(*along))
    angles = (np.array(angles) + np.pi / 2) % np.pi - np.pi / 2
    assert 0.35 < angles.max() < 0.41
    assert -0.41 < angles.min() < -0.35

    square = jnp.zeros((31, 31)).at[10:21, 10:21].set(1.0)
    areas = np.asarray(jax.vmap(CHANGES["zoom"], (0, None))(KEYS, square)).sum(axis=(1, 2)) / 121
    assert 1.3**2 * 0.93 < areas.max() < 1.3**2 * 1.03
    assert 0.97 / 1.3**2 < areas.min() < 1.07 / 1.3**2
    assert np.mean(areas > 1) == pytest.approx(0.5, abs=0.15)


def test_noise_has_its_deviation():
    noise = jax.vmap(CHANGES["add_noise"], (0, None))(KEYS, IMAGE) - IMAGE
    assert noise.std() == pytest.approx(0.1, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=5 * 0.1 / np.sqrt(noise.size))


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"resample: expected one image .*, got \(64,\); try x.re"):
        data.shift(KEYS[0], IMAGE.ravel())
    with pytest.raises(TypeError, match=r"expected floating-point numbers, got uint8; try image"):
        data.rotate(KEYS[0], IMAGE.astype(jnp.uint8))
