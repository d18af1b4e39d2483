"""`fit` with weights: what counts as two examples, as none, and how sure an example is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Objective, losses, rules
from fnn.training import Stop

LINE = Objective(lambda w, x: w[0] * x + w[1], losses.half_squared_error)
W, N = jnp.zeros(2), 10
X = np.linspace(-1, 1, N)
Y = 3 * X + 1 + np.cos(40 * X)
WEIGHTS = np.array([1.0, 2, 0, 1, 3, 0.5, 0, 0, 0, 2])  # of batches of three the third weighs 0
SGD = rules.sgd(0.1)
close = functools.partial(np.testing.assert_allclose, rtol=1e-12)


def by_hand(batches, rate=0.1):
    """Gradient descent on the weighted means of some batches."""
    w = np.zeros(2)
    for rows in batches:
        weights = WEIGHTS[rows]
        error = (w[0] * X[rows] + w[1] - Y[rows]) * weights / max(weights.sum(), 1e-300)
        w = w - rate * np.array([error @ X[rows], error.sum()])
    return w


def test_a_full_batch_is_a_weighted_mean():
    found = fnn.fit(SGD, LINE, W, (X, Y), weights=WEIGHTS, steps=5)
    close(found.params, by_hand([np.arange(N)] * 5))
    scaled = fnn.fit(SGD, LINE, W, (X, Y), weights=7 * WEIGHTS, steps=5)
    close(scaled.params, found.params)
    close(found.history.value[0], np.sum(WEIGHTS * Y**2) / 2 / WEIGHTS.sum())


def test_weights_are_those_of_polyfit():
    sigma = 0.1 + np.abs(X)
    found = fnn.fit(rules.levenberg_marquardt(), LINE, W, (X, Y), weights=1 / sigma**2, steps=40)
    close(found.params, np.polyfit(X, Y, 1, w=1 / sigma), rtol=1e-6)
    assert found.stopped == Stop.CONVERGED


@pytest.mark.parametrize("size", [3, 5])
def test_mini_batches_are_weighted_means_and_the_last_is_filled_up(size):
    """Examples of weight 0 may hold anything; a batch of nothing else changes nothing."""
    rows = [np.arange(i, min(i + size, N)) for i in range(0, N, size)]
    targets = np.where(WEIGHTS > 0, Y, np.nan)
    with pytest.warns(UserWarning, match="without a key"):
        found = fnn.fit(SGD, LINE, W, (X, targets), weights=WEIGHTS, batch_size=size, epochs=3)
    close(found.params, by_hand(rows * 3))
    empty = [i for i, batch in enumerate(rows) if not WEIGHTS[batch].any()]
    assert len(empty) == (size == 3)
    assert (found.history.value[empty] == 0).all()


def test_a_shuffled_example_keeps_its_weight():
    one = np.where(np.arange(N) == 4, 1.0, 0.0)  # all but one weigh nothing
    found = fnn.fit(
        SGD, LINE, W, (X, Y), weights=one, batch_size=3, epochs=2, key=jax.random.key(0)
    )
    alone = fnn.fit(SGD, LINE, W, (X[4:5], Y[4:5]), steps=2)
    close(found.params, alone.params)


def test_an_accumulated_step_is_that_of_all_examples():
    rule = rules.accumulate(4, damping=0.1)
    with pytest.warns(UserWarning, match="without a key"):
        found = fnn.fit(rule, LINE, W, (X, Y), weights=WEIGHTS, batch_size=3, epochs=1)
    whole = fnn.fit(rules.gauss_newton(damping=0.1), LINE, W, (X, Y), weights=WEIGHTS, steps=1)
    close(found.params, whole.params, rtol=1e-9)


def test_chunks_of_a_weighted_value_function_change_nothing():
    whole, cut = (LINE.on((X, Y), weights=WEIGHTS, chunk=chunk) for chunk in (None, 2))
    for one, other in zip(*(jax.value_and_grad(v)(W + 1) for v in (whole, cut)), strict=True):
        close(one, other)
    found = fnn.fit(SGD, cut, W, steps=2)
    close(found.params, by_hand([np.arange(N)] * 2))


def test_validation_has_weights_of_its_own():
    held_out = LINE.on((X, Y), weights=WEIGHTS)
    found = fnn.fit(SGD, LINE, W, (X, Y), weights=WEIGHTS, steps=3, validation=held_out)
    close(found.history.validation["loss"][:-1], found.history.value[1:])


def test_examples_are_split_over_devices_with_their_weights():
    mesh = jax.make_mesh((2,), ("examples",))
    sharding = jax.NamedSharding(mesh, jax.P("examples"))
    found = fnn.fit(SGD, LINE, W, (X, Y), weights=WEIGHTS, steps=5, sharding=sharding)
    close(found.params, by_hand([np.arange(N)] * 5))


def test_a_folder_is_of_these_weights(tmp_path):
    def resume(weights, steps):
        return fnn.fit(SGD, LINE, W, (X, Y), weights=weights, steps=steps, checkpoint=tmp_path)

    resume(WEIGHTS, 3)
    close(resume(WEIGHTS, 5).params, by_hand([np.arange(N)] * 5))
    with pytest.raises(ValueError, match=r"data.weights of the same values, got others"):
        resume(2 * WEIGHTS, 6)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.zeros(N), r"weight above 0, got 10 that are all 0; try None"),
        (-WEIGHTS, r"finite weights >= 0, got one of -1.0 at index 0; try 0 to leave"),
        (np.where(np.arange(N) == 3, np.nan, 1), r"finite weights >= 0, got one of nan at index 3"),
        (np.where(np.arange(N) == 3, np.inf, 1), r"finite weights >= 0, got one of inf at index 3"),
        (np.ones(3), r"weights of shape \(10,\), one for each example, got \(3,\)"),
        (np.ones((N, 1)), r"weights of shape \(10,\), one for each example, got \(10, 1\)"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights, match):
    with pytest.raises(ValueError, match=f"fit: expected (a )?{match}"):
        fnn.fit(SGD, LINE, W, (X, Y), weights=weights, steps=1)
    with pytest.raises(ValueError, match=f"Objective.on: expected (a )?{match}"):
        LINE.on((X, Y), weights=weights)


def test_weights_without_arrays_are_refused():
    with pytest.raises(ValueError, match="got weights with a stream of batches"):
        fnn.fit(SGD, LINE, W, [(X, Y)], weights=WEIGHTS, steps=1)
    with pytest.raises(ValueError, match="got weights with a value function"):
        fnn.fit(SGD, LINE.on((X, Y)), W, weights=WEIGHTS, steps=1)
