"""Estimators of scikit-learn: its own checks, units, weights, copies, and mistakes."""

import functools
import itertools
import pickle
import re
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import sklearn.base
import sklearn.exceptions
import sklearn.model_selection
import sklearn.utils.estimator_checks

import fnn
from fnn import layers, rules
from fnn.estimators import FNNClassifier, FNNRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 2))
Y = np.sin(X[:, 0]) + X[:, 1]
ADAM = {"rule": "adam", "batch_size": None, "learning_rate": 0.05, "hidden_sizes": (4,)}
SMALL = {**ADAM, "epochs": 100, "random_state": 0}  # of a rule that compiles fast
GUIDE = Path(__file__).parents[1] / "examples" / "guides" / "scikit_learn.md"
BOTH = pytest.mark.parametrize("make", [FNNRegressor, FNNClassifier])


@functools.cache
def regressor():
    """One fit that many tests look at."""
    return FNNRegressor(**SMALL).fit(X, Y)


def check_all(estimator):
    """Every check of scikit-learn; where pandas is missing, one says so and is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks fit nonsense, too
        sklearn.utils.estimator_checks.check_estimator(estimator)


@pytest.mark.gate
@BOTH
def test_scikit_learns_checks_of_a_rule_by_name(make):
    check_all(make(**ADAM, epochs=60, random_state=0))


@pytest.mark.gate
@BOTH
def test_scikit_learns_checks_of_the_defaults(make):
    check_all(make())


# Units and dtypes ---------------------------------------------------------------------------------


def test_units_of_targets_and_inputs_do_not_matter():
    moved = FNNRegressor(**SMALL).fit(X * [1e-3, 1e3] + 7, 1e6 * Y - 1e6)
    expected = 1e6 * regressor().predict(X) - 1e6
    np.testing.assert_allclose(moved.predict(X * [1e-3, 1e3] + 7), expected, rtol=1e-6)
    assert regressor().score(X, Y) > 0.9


def test_the_dtype_of_inputs_is_that_of_the_computation():
    assert regressor().predict(X).dtype == np.float64
    with jax.enable_x64(False):  # as programs are that do not ask for it
        again = FNNRegressor(**SMALL).fit(X, Y)
        np.testing.assert_array_equal(again.predict(X), regressor().predict(X))
    narrow = FNNRegressor(**SMALL).fit(X.astype(np.float32), Y)
    assert narrow.predict(X).dtype == np.float64  # that of the targets, whose units it has
    small = FNNRegressor(**SMALL).fit(X.astype(np.float32), Y.astype(np.float32))
    assert small.predict(X).dtype == np.float32
    np.testing.assert_allclose(narrow.predict(X), regressor().predict(X), atol=0.05)


def test_what_float32_rounds_away_of_targets_is_learned_from_inputs_of_float32():
    narrow = X.astype(np.float32)
    large = FNNRegressor(**SMALL).fit(narrow, 1e8 + Y)
    assert large.score(narrow, 1e8 + Y) > 0.9
    expected = 1e8 + FNNRegressor(**SMALL).fit(narrow, Y).predict(narrow)
    np.testing.assert_allclose(large.predict(narrow), expected, atol=1e-3)


def test_several_outputs_each_in_its_own_unit():
    both = FNNRegressor(**SMALL).fit(X, np.stack([Y, 1e6 * Y], axis=1)).predict(X)
    np.testing.assert_allclose(1e6 * both[:, 0], both[:, 1], atol=3e5)
    assert both.shape == (24, 2)


# Weights ------------------------------------------------------------------------------------------


@BOTH
def test_weights_are_repetitions_and_weightless_examples_are_none(make):
    weights = np.arange(24) % 3
    y = Y if make is FNNRegressor else (Y > 0)
    weighted = make(**SMALL).fit(X, y, sample_weight=weights)
    repeated = make(**SMALL).fit(X.repeat(weights, axis=0), y.repeat(weights))
    for left, right in zip(
        *map(jax.tree.leaves, (weighted.params_, repeated.params_)), strict=True
    ):
        np.testing.assert_allclose(left, right, atol=1e-7)


# Classes, copies, other processes -----------------------------------------------------------------


def test_labels_are_any_and_probabilities_sum_to_one():
    labels = np.array(["low", "middle", "high"])[np.digitize(Y, [-0.7, 0.7])]
    net = FNNClassifier(**SMALL).fit(X, labels)
    assert net.classes_.tolist() == ["high", "low", "middle"]
    assert net.score(X, labels) > 0.9
    np.testing.assert_allclose(net.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_array_equal(net.predict(X), net.classes_[net.predict_proba(X).argmax(axis=1)])


def test_copies_answer_as_the_original():
    copied = pickle.loads(pickle.dumps(regressor()))
    np.testing.assert_array_equal(copied.predict(X), regressor().predict(X))
    again = sklearn.base.clone(regressor()).fit(X, Y)
    np.testing.assert_array_equal(again.predict(X), regressor().predict(X))


def two_units(outputs):
    """A network of one's own, at the top of a module."""
    return layers.serial(layers.dense(2), layers.dense(outputs))


@pytest.mark.parametrize(
    "rule",
    [optax.sgd(0.1), rules.sgd(0.1), functools.partial(rules.sgd, 0.1)],
    ids=["optax", "fnn", "partial"],
)
def test_rules_are_objects_or_functions_too(rule):
    net = FNNRegressor(model=two_units, rule=rule, random_state=0, epochs=30, batch_size=8)
    fitted = sklearn.base.clone(net).fit(X, Y)
    assert fitted.score(X, Y) > 0.5
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 30


def test_patience_keeps_the_best_of_what_was_held_back():
    net = FNNClassifier(**ADAM | {"batch_size": "auto"}, patience=2, epochs=50, random_state=0)
    net.fit(X, Y > 0, sample_weight=np.full(24, 2.0))
    assert 0 < len(net.validation_curve_) <= 50
    assert len(net.validation_curve_) - 1 - np.argmin(net.validation_curve_) <= 2


def test_what_validates_takes_no_part_in_the_scaling():
    net = FNNRegressor(**SMALL | {"epochs": 2}, patience=2, validation_fraction=0.125).fit(X, Y)
    rows = _rows_of(net)
    np.testing.assert_allclose(net.scale_.deviation, X[rows].std(axis=0))
    np.testing.assert_allclose(net.target_scale_.mean, Y[rows].mean())


def _rows_of(net):
    """The examples that an estimator was trained on, all but three, by their means."""
    parts = (np.delete(np.arange(24), held) for held in itertools.combinations(range(24), 3))
    return next(rows for rows in parts if np.allclose(X[rows].mean(axis=0), net.scale_.mean))


def normalized(outputs):
    """A network with batch normalization."""
    return layers.serial(
        layers.dense(6), layers.batch_norm(), layers.elementwise(jax.nn.tanh), layers.dense(outputs)
    )


def test_batch_normalization_is_calibrated_on_the_examples_that_train():
    net = FNNRegressor(model=normalized, **ADAM | {"rule": "auto"}, epochs=60, random_state=0)
    net.fit(X, Y)  # "auto" is adam, since no rule of second order takes it
    assert net.score(X, Y) > 0.8
    hidden = net.scale_.apply(X, X.dtype) @ net.params_[0]["weight"] + net.params_[0]["bias"]
    np.testing.assert_allclose(net.params_[1]["mean"], hidden.mean(axis=0))
    np.testing.assert_allclose(net.params_[1]["var"], hidden.var(axis=0))


def test_early_stopping_sees_batch_normalization_as_prediction_does():
    net = FNNRegressor(
        model=normalized, **ADAM, epochs=60, patience=60, validation_fraction=0.125, random_state=0
    ).fit(X, Y)
    held = np.setdiff1d(np.arange(24), _rows_of(net))
    errors = (net.predict(X) - Y)[held] / net.target_scale_.deviation
    np.testing.assert_allclose(min(net.validation_curve_), 0.5 * np.mean(errors**2))


def test_start_and_order_have_keys_of_their_own(monkeypatch):
    keys = []

    def watched(*args, key, **kwargs):
        keys.append(key)
        return fnn.fit(*args, key=key, **kwargs)

    def remembering(outputs):
        dense = layers.dense(outputs)

        def init(key, x):
            keys.append(key)
            return dense.init(key, x)

        return dense._replace(init=init)

    monkeypatch.setattr("fnn.estimators.network.fit", watched)
    FNNRegressor(model=remembering, **SMALL | {"epochs": 1}).fit(X, Y)
    *_, start, order = [jax.random.key_data(key).tolist() for key in keys[1:]]
    assert start != order


def test_equal_partial_functions_share_what_is_compiled():
    traced = []

    def counted(units, outputs):
        def count(x):
            traced.append(units)
            return x

        return layers.serial(layers.dense(units), layers.elementwise(count), layers.dense(outputs))

    for units, is_new in ((3, True), (3, False), (2, True)):
        before = len(traced)
        net = FNNRegressor(model=functools.partial(counted, units), **SMALL | {"epochs": 2})
        sklearn.base.clone(net).fit(X, Y).predict(X)
        fresh = len(traced) - before
        assert (fresh > 2) == is_new, fresh


@pytest.mark.gate
def test_processes_share_a_search():
    grid = {"rule": ["levenberg_marquardt", rules.adam(0.05)], "epochs": [20]}
    search = sklearn.model_selection.GridSearchCV(FNNRegressor(**SMALL), grid, cv=2, n_jobs=2)
    assert search.fit(X, Y).best_score_ > 0.5


@pytest.mark.gate
def test_the_guide_runs(capsys):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(block, GUIDE.name, "exec"), names)
    assert "fnnregressor__rule" in capsys.readouterr().out


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (FNNClassifier, (X, np.ones(24)), "expected two classes or more, got one class"),
        (FNNClassifier, (X, Y), "Unknown label type"),
        (FNNRegressor, (X, np.where(Y > 0, np.nan, Y)), "contains NaN"),
        (FNNRegressor, (X, Y, -np.ones(24)), r"expected sample_weight >= 0, got -1.0"),
        (FNNRegressor, (X, Y, np.zeros(24)), "zero"),
        (functools.partial(FNNRegressor, rule="adm"), (X, Y), "did you mean 'adam'?"),
        (functools.partial(FNNRegressor, activation="tahn"), (X, Y), "did you mean 'tanh'?"),
        (functools.partial(FNNRegressor, activation="logsumexp"), (X, Y), "got 'logsumexp'"),
        (FNNRegressor, (X, Y, np.ones((24, 1))), r"sample_weight of shape \(24,\).* got \(24, 1\)"),
        (FNNRegressor, (X, Y, np.where(Y > 0, np.nan, 1)), "sample_weight contains NaN"),
        (
            functools.partial(FNNClassifier, patience=2),
            (X, np.where(np.arange(24) == 3, "c", np.where(Y > 0, "a", "b"))),
            "two examples or more of each class.* got one of class c; try patience=None",
        ),
        (
            functools.partial(FNNClassifier, patience=2, validation_fraction=0.01),
            (X, Y > 0),
            "to leave 2 examples or more .* got 0.01 of 24 examples, which is 1; try patience=None",
        ),
    ],
)
def test_mistakes_are_named_before_anything_runs(make, given, message):
    with pytest.raises(ValueError, match=message):
        make().fit(*given)


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_sizes": (0,)}, {"hidden_sizes": (16.0,)}, {"hidden_sizes": None},
        {"hidden_sizes": (4, -1)}, {"hidden_sizes": "16"}, {"activation": 3}, {"model": "dense"},
        {"model": layers.dense(1)}, {"learning_rate": 0}, {"learning_rate": "fast"}, {"decay": -1},
        {"decay": np.nan}, {"epochs": 0}, {"epochs": 2.5}, {"epochs": None}, {"batch_size": "full"},
        {"batch_size": 0}, {"tolerance": 1}, {"patience": 0}, {"patience": 1.5},
        {"validation_fraction": 0}, {"validation_fraction": 1.0}, {"validation_fraction": "tenth"},
    ],
    ids=str,
)  # fmt: skip
@BOTH
def test_arguments_are_checked_by_name(make, given):
    (name,) = given
    with pytest.raises(
        ValueError, match=rf"^{make.__name__}: expected {name} to be .*, got .*; try"
    ):
        make(**given).fit(X, Y > 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": rules.adam}, "got adam, which needs learning_rate; try its name, 'adam'"),
        ({"rule": lambda: 3}, "got 3; try a name such as 'adam'"),
        ({"rule": int}, "got 0; try a name"),
        ({"rule": None}, "got None; try a name"),
        ({"rule": rules.momentum}, "got momentum, which needs learning_rate; try"),
        ({"model": lambda outputs: outputs}, r"model\(1\) to return a layer, got int; try"),
        ({"model": lambda outputs: layers.dense(2 * outputs)}, r"with 1 numbers, got \(2,\); try"),
    ],
)
def test_rules_and_models_that_are_none_are_named(given, message):
    with pytest.raises((TypeError, ValueError), match=f"^FNNRegressor: expected .*{message}"):
        FNNRegressor(**given).fit(X, Y)


def test_a_rule_that_does_not_take_batch_normalization_is_named():
    with pytest.raises(ValueError, match="examples") as caught:
        FNNRegressor(model=normalized, rule="levenberg_marquardt", epochs=1).fit(X, Y)
    assert "FNNRegressor: a model with batch normalization" in caught.value.__notes__[-1]


@BOTH
def test_nothing_is_predicted_before_a_fit(make):
    with pytest.raises(sklearn.exceptions.NotFittedError):
        make().predict(X)


def test_sparse_matrices_and_other_widths_are_refused():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        FNNRegressor().fit(scipy_sparse.csr_matrix(X), Y)
    with pytest.raises(ValueError, match="3 features"):
        regressor().predict(np.ones((1, 3)))
