"""Estimators of scikit-learn: its own checks, units, weights, copies, and mistakes."""

import functools
import pickle
import re
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import sklearn.base
import sklearn.model_selection
import sklearn.utils.estimator_checks

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
    assert narrow.predict(X).dtype == np.float32
    np.testing.assert_allclose(narrow.predict(X), regressor().predict(X), atol=0.05)


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
        (functools.partial(FNNRegressor, (0,)), (X, Y), "dense"),
    ],
)
def test_mistakes_are_named_before_anything_runs(make, given, message):
    with pytest.raises(ValueError, match=message):
        make().fit(*given)


def test_sparse_matrices_and_other_widths_are_refused():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        FNNRegressor().fit(scipy_sparse.csr_matrix(X), Y)
    with pytest.raises(ValueError, match="3 features"):
        regressor().predict(np.ones((1, 3)))
