"""The scripts about first things: what is learned without a gradient, and where gradients start."""

import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fnn import activations

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, tmp_path, **arguments):
    """What an example's `main` returns; its picture is written."""
    made = script(name)["main"](picture=tmp_path / f"{name}.png", **arguments)
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    return made


def script(name):
    """The names that a script defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_madaline(tmp_path):
    """One unit finds the 104 separable functions of three bits, and rule II finds all."""
    solved, mistakes = run("madaline", tmp_path, sweeps=40)
    alone, two = solved.values()
    assert alone.any(axis=0).sum() == alone.all(axis=0).sum() == 104
    assert two.any(axis=0).sum() == 256
    assert two.mean() > 0.85
    assert np.median(mistakes) < 12


def test_madaline_disturbs_as_little_as_it_can():
    """The sums are what is wanted after it, and the change lies along the example."""
    disturb = script("madaline")["disturb"]
    w, x, wanted = np.random.default_rng(0).normal(size=(4, 3)), np.ones(4), np.array([1, -1, 2.0])
    moved = disturb(w, x, wanted)
    np.testing.assert_allclose(x @ moved, wanted)
    np.testing.assert_allclose(moved - w, np.linalg.pinv(x[None]) @ (wanted - x @ w)[None])


def test_madaline_flips_the_least_sure_unit_that_helps():
    """Of an OR of four units that say no, the one nearest to zero is turned, no other moves."""
    rule = script("madaline")["rule_two"]
    hidden = -jnp.array([[0.5, 0.2, 0.9, 0.7]] + [[0.0] * 4] * 3)
    output, x = jnp.array([[1.0], [1], [1], [1], [3.5]]), jnp.array([1.0, 0, 0, 0])
    (moved, kept), wrong = rule((hidden, output), (x, jnp.array(1.0)))
    assert wrong
    np.testing.assert_array_equal(kept, output)
    np.testing.assert_allclose(moved[0], [-0.5, 1.0, -0.9, -0.7])
    never = jnp.zeros((5, 1)).at[-1].set(-1.0)
    (stayed, changed), wrong = rule((hidden, never), (x, jnp.array(1.0)))
    assert wrong
    np.testing.assert_array_equal(stayed, hidden)
    np.testing.assert_allclose(jnp.array([-1.0, -1, -1, -1, 1]) @ changed, 1)


def test_activations(tmp_path):
    """Derivatives are differences between kinks, and a unit at its threshold fires."""
    apart = run("activations", tmp_path)
    assert max(apart.values()) < 1e-9
    assert len(apart) == 12
    assert [float(f(0.0)) for f in (activations.unipolar_step, activations.bipolar_step)] == [1, 1]
