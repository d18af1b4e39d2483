"""Restricted Boltzmann machines of digits and of stripes, and a belief network of two."""

import functools
import runpy
from pathlib import Path

import jax
import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def script(name):
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_rbm(tmp_path, capsys):
    """Digits come back, unseen ones too, and their free energy is below that of random pixels."""
    errors, energies = script("rbm")["main"](epochs=20, picture=tmp_path / "rbm.png")
    assert errors[-1] < 0.6 * errors[0]
    training, test, noise = (values[-1] for values in energies.values())
    assert max(training, test) < noise - 5
    assert abs(training - test) < 2
    assert "no loss" in capsys.readouterr().out
    assert (tmp_path / "rbm.png").stat().st_size > 10_000


def test_stripes(tmp_path):
    """Nothing is below the entropy; Newton reaches it; CD-1 learns, and stays above."""
    curves = script("stripes")["main"](steps=300, starts=4, picture=tmp_path / "stripes.png")
    for rows in curves.values():
        assert rows.shape == (4, 300)
        assert rows.min() > -1e-9
        assert (rows[:, -1] < 0.8 * rows[:, 0]).all()
    adam, newton, contrastive = (rows[:, -1].min() for rows in curves.values())
    assert newton < 1e-6 < adam
    assert contrastive > 0.05
    assert (tmp_path / "stripes.png").stat().st_size > 10_000


def test_belief(tmp_path):
    """Hidden layers are two machines; with few labels they help Adam, and all learn."""
    found, plan = script("belief"), {"seeds": 2, "steps": 15, "epochs": 30}
    ends = found["main"](sizes=(100,), **plan, picture=tmp_path / "belief.png")
    means = {which: shares.mean() for which, shares in ends.items()}
    assert len(means) == 4
    assert min(means.values()) > 0.6
    assert means[100, "Adam", "pre-trained"] > means[100, "Adam", "Glorot"] - 0.02
    assert (tmp_path / "belief.png").stat().st_size > 10_000
    # The classifier on top is as it was; each layer brings back what it is given.
    inputs = script("rbm")["digits"]()["training digits"][:1000]
    stack = found["pretrained"](found["PARAMS"], inputs, key=jax.random.key(1), epochs=30)
    np.testing.assert_array_equal(stack[4]["weight"], found["PARAMS"][4]["weight"])
    for place in (0, 2):
        # Hidden units of trained machines say more than their biases do.
        weight, bias = np.asarray(stack[place]["weight"]), np.asarray(stack[place]["bias"])
        assert weight.shape == found["PARAMS"][place]["weight"].shape
        hidden = 1 / (1 + np.exp(-bias - inputs @ weight))
        assert hidden.std(axis=0).mean() > 0.2
        inputs = hidden
