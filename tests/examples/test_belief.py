"""Restricted Boltzmann machines against sums over all states, and a belief network of two."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def script(name):
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@functools.cache
def machine(visible, hidden):
    """The shared functions, and a machine whose biases are not 0."""
    parts = script("parts/restricted")
    inputs = np.random.default_rng(0).binomial(1, 0.3, (20, visible)).astype(float)
    made = parts["start"](jax.random.key(0), inputs, hidden, scale=1.0)
    return parts, made._replace(hidden=jnp.asarray(np.linspace(-1, 1, hidden))), inputs


def energies(made, v, h):
    """Of every visible state with every hidden one."""
    weights, visible, hidden = map(np.asarray, made)
    return -v @ weights @ h.T - (v @ visible)[:, None] - h @ hidden


def states(n):
    """All states of n units."""
    return np.array(list(np.ndindex((2,) * n)), float)


def test_states_are_all_there_are():
    np.testing.assert_array_equal(script("parts/restricted")["states"](6), states(6))


def test_free_energy_is_a_sum_over_hidden_states():
    parts, made, inputs = machine(64, 6)
    every = np.logaddexp.reduce(-energies(made, inputs, states(6)), axis=1)
    np.testing.assert_allclose(parts["free_energy"](made, inputs), -every, atol=1e-10)


def test_conditional_means_are_sums_over_states():
    parts, made, inputs = machine(6, 4)
    hidden, visible = states(4), states(6)
    shares = np.exp(-energies(made, inputs, hidden))
    found = parts["upwards"](made, inputs) * shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, shares @ hidden, rtol=1e-10)
    shares = np.exp(-energies(made, visible, hidden)).T
    found = parts["downwards"](made, hidden) * shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, shares @ visible, rtol=1e-10)


def test_log_likelihood_is_a_sum_over_all_states():
    parts, made, inputs = machine(6, 4)
    hidden, visible = states(4), states(6)
    everything = np.logaddexp.reduce(-energies(made, visible, hidden), axis=None)
    logs = np.logaddexp.reduce(-energies(made, inputs, hidden), axis=1) - everything
    np.testing.assert_allclose(parts["log_likelihood"](made, inputs), logs.mean(), atol=1e-10)


def test_gradient_of_log_likelihood_is_positive_less_negative_phase():
    parts, made, inputs = machine(6, 4)
    grad = jax.jit(jax.grad(parts["log_likelihood"]))(made, inputs)
    phases = jax.jit(parts["phases"])(made, inputs)
    for found, expected in zip(phases, grad, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert jnp.abs(expected).max() > 1e-2


def test_contrast_is_nothing_on_average_where_data_are_the_machine():
    """A Gibbs step leaves the machine's own distribution as it is; of other data it does not."""
    parts, made, inputs = machine(6, 4)
    every = states(6)
    own = np.exp(-energies(made, every, states(4))).sum(axis=1)
    drawn = every[np.random.default_rng(2).choice(64, 100_000, p=own / own.sum())]
    contrast = jax.jit(parts["contrast"])
    at_rest, away = (contrast(made, v, jax.random.key(3)) for v in (drawn, inputs))
    for rest, moved in zip(at_rest, away, strict=True):
        assert jnp.abs(rest).max() < 0.01
        assert jnp.abs(moved).max() > 0.03


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
    parts, inputs = found["PARTS"], script("rbm")["digits"]()["training digits"][:1000]
    stack = parts["pretrained"](found["PARAMS"], found["WIDTHS"], inputs, jax.random.key(1), 30)
    np.testing.assert_array_equal(stack[4]["weight"], found["PARAMS"][4]["weight"])
    for place in found["WIDTHS"]:
        # Hidden units of trained machines say more than their biases do.
        weight, bias = np.asarray(stack[place]["weight"]), np.asarray(stack[place]["bias"])
        assert weight.shape == found["PARAMS"][place]["weight"].shape
        hidden = 1 / (1 + np.exp(-bias - inputs @ weight))
        assert hidden.std(axis=0).mean() > 0.2
        inputs = hidden
