"""`fits`: every member walks the path that `fit` goes alone, in one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import curvature, fits, rules
from fnn.training import Stop, fit
from tests.line import loss, model

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.fold_in(KEY, 1), (10, 3))
TARGETS = INPUTS @ jnp.array([1.0, -2.0, 0.5]) + 0.1 * jax.random.normal(KEY, (10,))
DATA = INPUTS, TARGETS
STARTS = {
    "weight": jax.random.normal(jax.random.fold_in(KEY, 2), (3, 3)),
    "bias": jnp.array([0.0, 1.0, -1.0]),
}
OBJECTIVE = fnn.Objective(model, loss)


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_walks_alone(trained, index, alone, rtol=1e-10):
    """A member of an ensemble is what its own `fit` came to."""
    seen, expected = (member(trained.params, index), trained.history[index]), alone[::2]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), seen, expected
    )
    assert jax.tree.structure(trained.state) == jax.tree.structure(alone.state)
    assert trained.stopped[index] == alone.stopped
    # the numbers of a sentence may differ in their last digits
    assert str(trained.stopped[index]).split("After")[0] == str(alone.stopped).split("After")[0]


def kfac():
    params = member(STARTS, 0)
    return rules.kfac(curvature.structure(model, params, INPUTS[0]))


@pytest.mark.parametrize(
    "make",
    [lambda: rules.adam(0.1), rules.levenberg_marquardt, lambda: optax.lbfgs(), kfac],
    ids=["adam", "levenberg_marquardt", "lbfgs", "kfac"],
)
def test_each_member_walks_as_alone(make):
    rule, steps = make(), 3  # a fourth of Levenberg-Marquardt brings less than rounding, or none
    trained = fits(rule, OBJECTIVE, STARTS, DATA, steps=steps)
    for index in range(3):
        alone = fit(rule, OBJECTIVE, member(STARTS, index), DATA, steps=steps)
        assert_walks_alone(trained, index, alone)
    outputs = jax.vmap(lambda params: jax.vmap(model, (None, 0))(params, INPUTS))(trained.params)
    assert outputs.shape == (3, 10)


def test_data_keys_batches_rates_and_patience_of_their_own():
    rows = jax.random.randint(jax.random.fold_in(KEY, 3), (3, 10), 0, 10)  # bootstrap samples
    own = INPUTS[rows], TARGETS[rows]
    rates, keys = jnp.array([0.05, 2.0, 0.05]), jax.random.split(jax.random.key(5), 3)
    options = {"batch_size": 4, "epochs": 60, "validation": DATA, "patience": 1}
    rule = optax.inject_hyperparams(rules.adam)(learning_rate=0.05)
    states = jax.vmap(rule.init)(STARTS)
    states = states._replace(hyperparams=states.hyperparams | {"learning_rate": rates})
    by_state = fits(
        rule, OBJECTIVE, STARTS, own, data_axes=0, key=jax.random.key(5), state=states, **options
    )
    by_function = fits(
        rules.adam, OBJECTIVE, STARTS, own, data_axes=0, key=keys, hyperparameters=rates, **options
    )
    lengths = {len(history.value) for history in by_state.history}
    assert len(lengths) > 1  # they stop by themselves
    for index in range(3):
        alone = fit(
            rule,
            OBJECTIVE,
            member(STARTS, index),
            member(own, index),
            key=keys[index],
            state=member(states, index),
            **options,
        )
        assert_walks_alone(by_state, index, alone)
        assert by_function.stopped[index] == alone.stopped
        np.testing.assert_allclose(by_function.history[index].value, alone.history.value, rtol=1e-9)
    adam = rules.adam(0.05).init(member(STARTS, 0))
    assert jax.tree.structure(by_function.state) == jax.tree.structure(adam)


def test_a_member_that_diverges_does_not_disturb_the_others_and_nothing_compiles_again(
    compilations,
):
    def train(rates, steps):
        rates = jnp.array(rates)
        return fits(optax.sgd, OBJECTIVE, STARTS, DATA, hyperparameters=rates, steps=steps)

    good = train([0.1, 0.1, 0.2], 5)
    compilations.clear()
    with pytest.warns(UserWarning, match=r"of 3 members, 1 .*member 1.*value rose"):
        train([0.1, 9.0, 0.2], 5)
    train([0.1, 0.1, 0.2], 700)
    assert not compilations
    bad = train([0.1, 1e200, 0.2], 5)
    assert bad.stopped[1] == Stop.NON_FINITE
    assert "There the value is" in str(bad.stopped[1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bad.params))
    for index in (0, 2):
        jax.tree.map(
            np.testing.assert_array_equal, member(good.params, index), member(bad.params, index)
        )
        assert bad.stopped[index] == Stop.BUDGET


def test_value_functions_of_their_own():
    weights = jnp.array([0.1, 1.0, 3.0])
    value_fns = jax.vmap(lambda weight: OBJECTIVE.on(DATA) + fnn.l2(weight))(weights)
    trained = fits(rules.levenberg_marquardt(), value_fns, STARTS, data_axes=0, steps=40)
    x = jnp.concatenate([jnp.ones((10, 1)), INPUTS], axis=1)
    for index, weight in enumerate(weights):
        expected = jnp.linalg.solve(x.T @ x / 10 + weight * jnp.eye(4), x.T @ TARGETS / 10)
        found = jnp.append(trained.params["bias"][index], trained.params["weight"][index])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert trained.stopped[index] == Stop.CONVERGED


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"params": member(STARTS, 0)}, r"first axis with a place .* number at params\['bias'\]"),
        ({"params": {"a": jnp.ones((3, 2)), "b": jnp.ones(2)}}, r"3 in params\['a'\]; 2 in params"),
        ({"hyperparameters": jnp.ones(2)}, r"2 in hyperparameters; 3 in params\["),
        ({"data_axes": 0}, r"10 in data\[0\], data\[1\].*data_axes=None"),
        ({"data_axes": 1}, r"data_axes of 0 .* and None .*, got 1"),
        ({"data_axes": (0, None, 0)}, r"data_axes that fit the data, as in_axes of jax.vmap"),
        ({"params": jax.tree.map(lambda leaf: leaf[:0], STARTS)}, "at least one member, got none"),
        ({"key": jax.random.split(KEY, 2)}, r"one key, or an array of 3"),
        ({"key": 3}, r"one key, or an array of 3"),
        ({"data": [DATA]}, r"data as arrays, .* stream"),
        (
            {"rule": optax.sgd(0.1), "hyperparameters": jnp.ones(3)},
            "function from a member's hyper",
        ),
        (
            {"params": STARTS | {"bias": jnp.array([0, jnp.nan, 0])}},
            r"1 that are NaN .* index \(1,",
        ),
        ({"objective": OBJECTIVE.on(DATA)}, "no data, since a value function brings its own"),
        ({"state": {}}, "expected a state of this rule"),
        ({"epochs": 1}, "either steps= or epochs=, got both"),
        ({"patience": 2}, "patience needs validation data"),
        ({"batch_size": 2.5}, "batch_size to be a whole number"),
        ({"tolerance": 2}, r"tolerance in \[0, 1\)"),
        ({"rule": optax.sgd}, "a rule such as rules.adam"),
        ({"params": jax.tree.map(jnp.round, STARTS) | {"bias": jnp.arange(3)}}, "real parameters"),
    ],
)
def test_mistakes_are_explained(change, error):
    given = {"rule": optax.sgd, "objective": OBJECTIVE, "params": STARTS, "data": DATA, "steps": 1}
    if "hyperparameters" not in change:
        given["rule"] = optax.sgd(0.1)
    with pytest.raises((TypeError, ValueError), match=f"^fits: .*{error}"):
        fits(**given | change)


def test_warnings_name_the_function_that_was_called():
    with pytest.warns(UserWarning, match=r"^fits: without a key the mini-batches are the same"):
        fits(optax.sgd(0.1), OBJECTIVE, STARTS, DATA, epochs=1, batch_size=5)
    with pytest.warns(UserWarning, match=r"^fit: without a key the mini-batches are the same"):
        fit(optax.sgd(0.1), OBJECTIVE, member(STARTS, 0), DATA, epochs=1, batch_size=5)


def test_weights_of_members_are_value_functions_and_progress_is_that_of_all(capsys):
    weights, rule = jnp.arange(30.0).reshape(3, 10), optax.sgd(0.1)
    value_fns = jax.vmap(lambda w: OBJECTIVE.on(DATA, weights=w))(weights)
    trained = fits(rule, value_fns, STARTS, data_axes=0, steps=4, progress=True)
    assert "100%" in (shown := capsys.readouterr().err)
    assert "fits: 3 members" in shown
    for index in range(3):
        alone = fit(rule, OBJECTIVE, member(STARTS, index), DATA, weights=weights[index], steps=4)
        assert_walks_alone(trained, index, alone)


def test_a_start_that_passes_for_members_is_explained():
    start = {"weight": jnp.ones(3), "bias": jnp.ones(3)}  # of one member these are numbers
    with pytest.raises((TypeError, ValueError)) as caught:
        fits(optax.sgd(0.1), OBJECTIVE, start, DATA, steps=1)
    assert "the first axis of every leaf of params counts members" in "".join(
        caught.value.__notes__
    )
