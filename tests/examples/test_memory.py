"""Memories: energies never rise, capacity is near 0.138 n, maps keep neighbors."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def names(script):
    """What a script defines."""
    return runpy.run_path(str(EXAMPLES / f"{script}.py"))


def test_hopfield(tmp_path):
    """Below 0.138 n all is remembered, far above nothing; an energy falls, or stays."""
    script = names("hopfield")
    capacity, energies = script["main"](sizes=(200,), picture=tmp_path / "hopfield.png")
    loads, (found,) = script["LOADS"], capacity.values()
    assert found[loads <= 0.1].min() > 0.99
    assert found[loads >= 0.22].max() < 0.85
    # Where it falls fastest; small memories forget late and slowly.
    half = loads[np.argmax(found < 0.95)]
    assert 0.12 <= half <= 0.18
    assert (np.diff(energies) <= 1e-5).all()
    assert energies[0] - energies[-1] > 5
    assert (tmp_path / "hopfield.png").stat().st_size > 10_000


def test_a_memory_of_one_pattern_knows_it_and_its_negative():
    script = names("hopfield")
    pattern = jax.random.rademacher(jax.random.key(3), (1, 30), float)
    couplings = script["stored"](pattern)
    for near, ends in ((pattern[0].at[:9].multiply(-1), 1), (-pattern[0].at[:9].multiply(-1), -1)):
        found, _ = script["recall"](couplings, near, jax.random.key(0))
        np.testing.assert_array_equal(found, ends * pattern[0])


def test_associative(tmp_path):
    """Stored digits are fixed points, half of one brings the other; a BAM's energy never rises."""
    script = names("associative")
    pixels, seen, bits, energies = script["main"](picture=tmp_path / "associative.png")
    assert pixels.min() > 0.85
    assert (pixels == 1).sum() >= 2
    np.testing.assert_array_equal(seen, 1)
    assert bits.min() > 0.85  # images resemble each other, names do not
    assert (np.diff(energies, axis=0) <= 1e-9).all()
    patterns = np.random.default_rng(0).choice([-1.0, 1.0], (5, 64))
    kept = script["completed"](script["autoassociation"](patterns), patterns)
    np.testing.assert_array_equal(kept, patterns)
    assert (tmp_path / "associative.png").stat().st_size > 5_000


def test_map(tmp_path):
    """Training brings units near the data, and their neighbors with them."""
    script = names("map")
    colors, digits, untrained = script["main"](side=7, steps=4000, picture=tmp_path / "map.png")
    assert digits[0] < 0.85 * untrained[0]
    assert digits[1] < 0.15 < 0.5 < untrained[1]
    assert colors[1] < 0.15
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_a_map_of_one_unit_is_the_mean():
    script, inputs = names("map"), jnp.asarray(np.random.default_rng(0).normal(size=(500, 3)))
    weights = script["trained"](inputs, 1, 5000, jax.random.key(0))
    np.testing.assert_allclose(weights[0], inputs.mean(axis=0), atol=0.4)
    assert script["errors"](weights, inputs, 1)[1] == 0
