"""Five networks of the lectures: what is known of them, and K-FAC beside Adam."""

import functools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import layers

EXAMPLES = Path(__file__).parents[2] / "examples"
GATE = pytest.mark.gate


@functools.cache
def script(name):
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def randomized(layer, x):
    """Parameters of which none is zero."""
    params = layer.init(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def weights(window, fan_in, fan_out):
    """Parameters of a convolution with biases; of a dense layer with a window of 1."""
    return window**2 * fan_in * fan_out + fan_out


def test_parameters_and_flops_by_closed_form(tmp_path):
    table = script("networks")["main"](tmp_path / "networks.png")
    assert weights(5, 1, 6) == 156  # LeNet-5's first layer, as in 1998
    ends = weights(1, 64, 30) + weights(1, 30, 10)
    assert table["LeNet-5"][0] == 156 + weights(3, 6, 16) + ends
    halves = weights(3, 4, 16)  # two groups: half of the weights
    ends = weights(1, 64, 32) + weights(1, 32, 10)
    assert table["AlexNet"][0] == weights(5, 1, 8) + halves + ends
    pairs = weights(3, 1, 6) + weights(3, 6, 6) + weights(3, 6, 12) + weights(3, 12, 12)
    assert table["VGG"][0] == pairs + weights(1, 48, 32) + weights(1, 32, 10)
    paths = weights(1, 8, 4) + 2 * weights(1, 8, 4) + weights(3, 4, 6) + weights(5, 4, 4)
    paths += weights(1, 8, 4)
    assert table["Inception"][0] == weights(3, 1, 8) + paths + weights(1, 72, 10)
    shortcuts = 2 * weights(3, 8, 8) + 2 * weights(3, 12, 12)
    ends = weights(3, 8, 12) + weights(1, 48, 10)
    assert table["ResNet"][0] == weights(3, 1, 8) + shortcuts + ends
    assert all(cost > 2 * size for size, cost, _ in table.values())  # weights are shared
    assert (tmp_path / "networks.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "name",
    ["AlexNet", "VGG", "ResNet", *(pytest.param(n, marks=GATE) for n in ("LeNet-5", "Inception"))],
)
def test_a_unit_sees_what_the_formula_says(name):
    found = script("networks")
    network = layers.serial(*found["PARTS"][name][0])
    images = jax.random.normal(jax.random.key(2), (10, 40, 40, 1), "float32")
    params = jax.tree.map(lambda leaf: leaf.astype("float32"), randomized(network, images[0]))

    @jax.jit
    def derivatives(params, images):
        def middle(image):
            answers = network.apply(params, image)
            row, column = answers.shape[0] // 2, answers.shape[1] // 2
            return answers[row, column] @ jnp.arange(1, 1 + answers.shape[-1], dtype="float32")

        return jnp.sum(jnp.abs(jax.vmap(jax.grad(middle))(images)), axis=(0, 3))

    seen = np.asarray(derivatives(params, images)) > 0
    width = 1
    for (window, _), jump in zip(
        found["WINDOWS"][name],
        np.cumprod([1, *(stride for _, stride in found["WINDOWS"][name])]),
        strict=False,
    ):
        width += (window - 1) * jump
    assert seen.any(axis=0).sum() == seen.any(axis=1).sum() == width


def test_blocks_are_what_made_them_famous():
    found = script("networks")
    x = jax.random.normal(jax.random.key(0), (8, 8, 8))
    shortcut = found["shortcut"](8)
    np.testing.assert_array_equal(shortcut.apply(shortcut.init(jax.random.key(1), x), x), x)
    block = found["inception"](4, 6, 5, 3)
    params = randomized(block, x)
    answers = block.apply(params, x)
    assert answers.shape == (8, 8, 4 + 6 + 5 + 3)
    alone = found["conv"](4, 1).apply(params[0][0], x)
    np.testing.assert_allclose(answers[..., :4], alone, rtol=1e-12)


def test_a_convolution_moves_with_its_image():
    layer = script("networks")["conv"](6, 5)
    image = jnp.zeros((16, 16, 1)).at[4:9, 4:9, 0].set(jax.random.normal(jax.random.key(0), (5, 5)))
    params = randomized(layer, image)
    moved = layer.apply(params, jnp.roll(image, (2, 1), (0, 1)))
    still = jnp.roll(layer.apply(params, image), (2, 1), (0, 1))
    np.testing.assert_allclose(moved[2:-2, 2:-2], still[2:-2, 2:-2], atol=1e-12)


@pytest.mark.gate
def test_kfac_is_there_epochs_before_adam(tmp_path):
    found = script("architectures")
    picture = tmp_path / "architectures.png"
    table = found["main"](names=("LeNet-5",), seeds=2, epochs=8, picture=picture)
    (_, adam, _), (_, kfac, right) = table["LeNet-5"]["Adam"], table["LeNet-5"]["K-FAC"]
    assert adam.shape == kfac.shape == (2, 8)
    assert found["arrivals"](kfac, adam[:, -1]).max() <= 5
    assert right.min() > 0.95
    assert picture.stat().st_size > 10_000


def test_arrivals_are_first_times():
    lost = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 2.5], [4.0, 4.0, 4.0]])
    when = script("architectures")["arrivals"](lost, np.array([2.0, 2.0, 1.0]))
    assert when.tolist() == [2, 2, math.inf]


def test_patches_are_the_windows_that_excite_most():
    found = script("filters")
    images = np.random.default_rng(0).uniform(size=(30, 8, 8, 1))
    params = randomized(found["MODEL"], images[0])
    for depth in (1, 2, 3):
        windows = found["patches"](params, depth, images, most=4)
        assert windows.shape == (8, 4, 1 + 2 * depth, 1 + 2 * depth)
        excited = found["activity"](params, depth, windows.reshape(32, *windows.shape[2:], 1))
        own = np.asarray(excited).reshape(8, 4, 8)[np.arange(8), :, np.arange(8)]
        most = np.asarray(found["activity"](params, depth, images)).max(axis=(1, 2))
        np.testing.assert_allclose(own, np.sort(most, axis=0)[::-1][:4].T, rtol=1e-9)


@GATE
def test_filters_of_a_trained_network(tmp_path):
    fits = script("filters")["main"](epochs=8, picture=tmp_path / "filters.png")
    assert fits["K-FAC"][1] > max(0.95, fits["Adam"][1] - 0.01)
    assert (tmp_path / "filters.png").stat().st_size > 10_000


@GATE
def test_a_residual_network_learns_digits(tmp_path):
    plan = {"names": ("ResNet",), "seeds": 2, "picture": tmp_path / "architectures.png"}
    table = script("architectures")["main"](**plan)
    for runs in table.values():
        assert runs["K-FAC"][2].mean() > 0.94
