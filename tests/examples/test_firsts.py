"""The scripts about first things: what is learned without a gradient, and where gradients start."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_graph(tmp_path):
    """Forward and in reverse the same; path by path the same, too, for 2^depth times the price."""
    tangents, adjoints, counted = run("graph", tmp_path, depths=range(1, 6))
    x, slope = 2.0, (y := 1 / (1 + np.exp(-0.7))) * (1 - y) * (y - 1)
    np.testing.assert_allclose([adjoints["w"], adjoints["b"]], [x * slope, slope])
    for name, node in tangents.items():
        np.testing.assert_allclose(node["E"], adjoints[name])
    depth = np.arange(1, 6)
    np.testing.assert_array_equal(counted[:, 0], 2**depth * (depth + 1))
    np.testing.assert_array_equal(counted[:, 1], 2 + 2 * (2 * depth - 1))
    for derivatives in counted[:, 2:].T:  # of w to the power of 2^depth
        np.testing.assert_allclose(derivatives, 2**depth * 1.01 ** (2.0**depth - 1))


@pytest.mark.filterwarnings("ignore:fits")  # some of the rates that are tried are too large
def test_rates(tmp_path):
    """Lengths of steps are those of closed forms: AdaGrad's falls to 1/20 in 400 steps."""
    lengths, losses = run("rates", tmp_path, steps=300)
    for measured, closed in lengths.values():
        np.testing.assert_allclose(measured, closed, rtol=1e-5)
    assert abs(lengths["AdaGrad"][0][-1] - 0.005) < 1e-4
    assert abs(lengths["RMSProp"][0][-1] - 0.1) < 1e-4
    assert all(loss[-1] < loss[0] / 5 for loss in losses.values())


def test_critical_points(tmp_path):
    """Matrices as the closed forms say; gradient descent finds minima, Newton's method anything."""
    shares = run("critical_points", tmp_path, dimensions=(1, 2, 3), fields=25)
    exact = 1 / 2, 1 / 2 - 2**0.5 / 4, 1 / 4 - 2**0.5 / (2 * np.pi)
    np.testing.assert_allclose(shares["random matrices"], exact, atol=0.005)
    assert shares["sgd"] == [1, 1, 1]
    # Of points of Gaussian functions of two numbers half are saddles, of three 0.123 are minima.
    np.testing.assert_allclose(shares["newton"], [1 / 2, 1 / 4, (29 - 6 * 6**0.5) / 116], atol=0.15)


def test_cliffs(tmp_path):
    """One leap without clipping, none with it; and the gradient is a product over the steps."""
    seen = run("cliffs", tmp_path, steps=150)
    longest = [
        np.linalg.norm(np.diff(points, axis=0), axis=1).max() for points, *_ in seen.values()
    ]
    assert longest[0] > 1
    assert longest[1] < 0.02 + 1e-9
    _, errors, norms = seen["LM"]
    assert errors[-1] < 1e-10
    assert norms.max() > 1e3 * norms[0]
    w, b = points = seen["LM"][0][-1]
    states = [0.5]
    for _ in range(50):
        states.append(w / (1 + np.exp(-states[-1])) + b)
    answers = 1 / (1 + np.exp(-np.array(states[:-1])))
    slope = jax.grad(script("cliffs")["last"], 1)(jnp.asarray(points), 0.5)
    np.testing.assert_allclose(slope, np.prod(w * answers * (1 - answers)), rtol=1e-6)


def test_starts(tmp_path):
    """He keeps the squares of rectified signals that LeCun halves; Newton needs no preparation."""
    squares, prepared = run("starts", tmp_path, depth=12, steps=150)
    np.testing.assert_allclose(squares["orthogonal, linear"], squares["orthogonal, linear"][0])
    assert 0.4 < squares["He, ReLU"][-1] < 2.5
    halved = squares["LeCun, ReLU"] * 2.0 ** np.arange(1, 13)
    np.testing.assert_allclose(halved, squares["He, ReLU"], rtol=1e-6)
    assert squares["deviation 0.01, tanh"][-1] < 1e-15
    conditions, descents, newtons = zip(*prepared.values(), strict=True)
    assert conditions[0] > 1000 > conditions[1] > 100 > 1.001 > conditions[2]
    ends = [losses[-1] for losses in descents]
    assert ends[0] > ends[1] > ends[2]
    for losses in newtons[1:]:
        np.testing.assert_allclose(losses, newtons[0], rtol=1e-6)


@pytest.mark.gate
def test_narrow(tmp_path):
    """Layers of n + 4 = 5 rectified units come near to sin 3x, by both rules."""
    errors = run("narrow", tmp_path, depths=(2,), seeds=4, steps=700)
    assert max(values.min() for values in errors.values()) < 1.5e-3


@pytest.mark.gate
def test_random_rectifiers(tmp_path):
    """Trained hidden units are the better ones, and a convex problem asks for the second order."""
    found = run("random_rectifiers", tmp_path, seeds=4)
    for shares in found.values():
        assert min(shares["trained, adam"].mean(), shares["trained, K-FAC"].mean()) > 0.89
        assert 0.6 < shares["random, adam"].mean() < 0.88
        assert shares["random, adam"].mean() < shares["random, LM"].mean()


@pytest.mark.gate
def test_claims(tmp_path):
    """Augmentation helps with what is moved, and does not with what is not; nor does dropout."""
    seen = run("claims", tmp_path, seeds=4)
    plain, moved = (seen[name, "adam"].mean(axis=0) for name in ("cross-entropy", "augmentation"))
    assert moved[1] > plain[1] + 0.15
    assert moved[0] < plain[0]
    assert abs(seen["dropout", "adam"].mean(axis=0)[0] - plain[0]) < 0.02
