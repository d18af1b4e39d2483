"""Estimators of scikit-learn: `fit` behind its doors, for pipelines, searches and cross-validation.

    FNNRegressor     numbers, one or several for an example
    FNNClassifier    classes, two or more, by any labels

They are networks of dense layers (or any model) trained by any rule. Inputs and targets of the
regressor are standardized inside, by the weighted means and deviations of what `fit` is given, so
that a fit does not depend on units. They compute in the dtype of X: float64 for arrays of NumPy as
they come, whatever the program's own setting of JAX, and float32 for arrays of float32.

A fit of the same arguments and shapes compiles nothing again. What `fit` keeps are plain arrays, so
that estimators can be copied, pickled and sent to other processes, if their arguments can: a rule
made by a call is a pair of local functions, which the processes of joblib take and `pickle` does
not; its name, or `functools.partial(rules.adam, 1e-2)`, goes everywhere.
"""

import functools
import inspect
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PyTree

from fnn import activations, layers, losses, rules
from fnn.interned import interned
from fnn.names import look_up
from fnn.objective import Objective, l2
from fnn.requirements import require
from fnn.training import Stop, fit

__requires__ = require("estimators", "sklearn")

import sklearn.base as bases
from sklearn import exceptions, model_selection
from sklearn import utils as sklearn_utils
from sklearn.utils import multiclass, validation

__all__ = ["FNNClassifier", "FNNRegressor"]
__dir__ = __all__.copy

DEAR = 1e9
"""Products in a step of Levenberg-Marquardt above which "auto" is adam: some 0.1 s of a core."""

BATCH = 64
"""Examples in a batch of a rule that "auto" gives mini-batches."""

Factory = Callable[[int], layers.Layer]
Rule = str | optax.GradientTransformation | Callable[[], optax.GradientTransformation]


# What is trained: equal arguments give the same objects, so that nothing is compiled twice --------


@interned
def _model(hidden: tuple[int, ...], activation: Any, make: Factory | None, k: int) -> layers.Layer:
    """The network with k outputs."""
    if make is not None:
        return make(k)
    if isinstance(activation, str):
        own = {name: getattr(activations, name) for name in activations.__all__}
        known = {name: f for name, f in vars(jax.nn).items() if callable(f)} | own
        activation = look_up("activation", activation, known)
    units = [part for n in hidden for part in (layers.dense(n), layers.elementwise(activation))]
    return layers.serial(*units, layers.dense(k))


@interned
def _objective(apply: Callable, loss: Callable, decay: float) -> Objective:
    objective = Objective(apply, loss)
    return objective + l2(decay) if decay else objective


@functools.partial(jax.jit, static_argnums=0)
def _outputs(apply: Callable, params: PyTree, inputs: jax.Array) -> jax.Array:
    return jax.vmap(apply, (None, 0))(params, inputs)


class _Scale(NamedTuple):
    """Numbers of mean 0 and deviation 1, and back."""

    mean: Float[np.ndarray, " features"]
    deviation: Float[np.ndarray, " features"]

    def apply(self, x: np.ndarray) -> np.ndarray:
        """The standardized numbers, in their dtype."""
        return ((x - self.mean) / self.deviation).astype(x.dtype)


def _scale(x: np.ndarray, weights: np.ndarray | None) -> _Scale:
    """Means and deviations of columns; a constant column's deviation is 1."""
    wide = x.astype(np.float64)
    mean = np.average(wide, axis=0, weights=weights)
    largest = np.abs(wide - mean).max(axis=0)
    flat = largest <= 16 * np.finfo(x.dtype).eps * np.abs(mean)
    unit = np.where(flat, 1.0, largest)  # no square of it overflows, or vanishes
    spread = unit * np.sqrt(np.average(((wide - mean) / unit) ** 2, axis=0, weights=weights))
    return _Scale(mean, np.where(flat, 1.0, spread))


def _known_rules() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The rules that need no argument, or a learning rate alone."""
    needed = {
        name: {p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty}
        for name in rules.__all__
        if inspect.isfunction(make := getattr(rules, name))
    }
    others = {"plateau", "static_arguments"}
    return {
        name: getattr(rules, name)
        for name, names in needed.items()
        if names <= {"learning_rate"} and name not in others
    }


def _takes_rate(make: Callable) -> bool:
    rate = inspect.signature(make).parameters.get("learning_rate")
    return rate is not None and rate.default is rate.empty


# Estimators ---------------------------------------------------------------------------------------


class _Network(bases.BaseEstimator):
    """What both estimators share: their arguments, and training."""

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (16,),
        activation: str | Callable = "tanh",
        *,
        model: Factory | None = None,
        rule: Rule = "auto",
        learning_rate: float = 1e-3,
        decay: float = 1e-2,
        epochs: int = 100,
        batch_size: int | str | None = "auto",
        tolerance: float | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """Keeps the arguments as they are."""
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.model = model
        self.rule = rule
        self.learning_rate = learning_rate
        self.decay = decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.tolerance = tolerance
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def _validated(self, X: Any, **checks: Any) -> Any:
        """X, or X and y, as arrays; scikit-learn's own errors for what is none."""
        checks = {"dtype": [np.float64, np.float32], **checks}
        if hasattr(validation, "validate_data"):
            return validation.validate_data(self, X, **checks)
        older: Any = self  # scikit-learn before 1.6
        return older._validate_data(X, **checks)

    def _weights(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        """One number >= 0 for each example, not all 0."""
        if sample_weight is None:
            return None
        weights = validation._check_sample_weight(sample_weight, X, dtype=np.float64)
        who = f"{type(self).__name__}: expected sample_weight"
        if (weights < 0).any():
            raise ValueError(f"{who} >= 0, got {weights.min()}; try 0 to leave an example out")
        if not weights.any():
            raise ValueError(f"{who} above zero for some example, got all zero; try None")
        return weights

    def _rule(self, rows: int, size: int) -> tuple[optax.GradientTransformation, bool]:
        """The rule, and whether it wants mini-batches."""
        rule: Any = self.rule
        if isinstance(rule, str):
            if rule == "auto":
                rule = "levenberg_marquardt" if rows * size * min(rows, size) <= DEAR else "adam"
            make: Any = look_up("rule", rule, _known_rules())
            return (make(self.learning_rate), True) if _takes_rate(make) else (make(), False)
        made: Any = rule() if callable(rule) else rule
        return made, False

    def _train(
        self, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None, loss: Callable, k: int
    ) -> None:
        """Fits a network with k outputs; zero-weight examples are those of no call at all."""
        random = sklearn_utils.check_random_state(self.random_state)
        self.scale_ = _scale(X, weights)
        inputs = self.scale_.apply(X)
        weights = None if weights is None else (weights / weights.mean()).astype(X.dtype)
        hidden = tuple(int(n) for n in np.atleast_1d(self.hidden_sizes))
        self._network: Any = (hidden, self.activation, self.model, k)
        model = _model(*self._network)
        train, held = (inputs, y, weights), None
        if self.patience is not None:
            train, held = self._split(train, random)
        with jax.enable_x64(bool(X.dtype == np.float64)):
            key = jax.random.key(random.randint(2**31 - 1))
            start = model.init(key, jax.ShapeDtypeStruct(inputs.shape[1:], np.float32))
            params = jax.tree.map(lambda leaf: leaf.astype(X.dtype), start)  # one of all dtypes
            rows, size = len(train[0]), sum(leaf.size for leaf in jax.tree.leaves(params))
            rule, in_batches = self._rule(rows * k, size)
            batch_size: Any = self.batch_size
            if batch_size == "auto":
                batch_size = BATCH if in_batches else None
            batch_size = None if batch_size is None or batch_size >= rows else batch_size
            train, held = jax.tree.map(jnp.asarray, (train, held))
            alone = _objective(model.apply, loss, 0.0)  # validation knows no penalty
            trained = fit(
                rule,
                _objective(model.apply, loss, self.decay),
                params,
                train[:2],
                weights=train[2],
                epochs=self.epochs,
                batch_size=batch_size,
                key=key,
                validation=None if held is None else alone.on(held[:2], weights=held[2]),
                patience=self.patience,
                tolerance=self.tolerance,
            )
        self.params_ = jax.tree.map(np.asarray, trained.params)
        self.stopped_ = str(trained.stopped)
        if trained.stopped == Stop.NON_FINITE:
            who = type(self).__name__
            warnings.warn(f"{who}: {self.stopped_}", exceptions.ConvergenceWarning, stacklevel=3)
        steps = 1 if batch_size is None else -(-rows // batch_size)
        value = trained.history.value
        self.n_iter_ = max(1, -(-len(value) // steps))
        self.loss_curve_ = [float(value[i : i + steps].mean()) for i in range(0, len(value), steps)]
        self.validation_curve_ = [float(x) for x in trained.history.validation.get("loss", ())]

    def _split(self, data: PyTree, random: np.random.RandomState) -> tuple:
        """What trains and what validates, classes in equal shares."""
        labels = data[1]
        train, rest = model_selection.train_test_split(
            np.arange(len(labels)),
            test_size=self.validation_fraction,
            random_state=random,
            stratify=labels if bases.is_classifier(self) else None,
        )
        return tuple(jax.tree.map(operator.itemgetter(rows), data) for rows in (train, rest))

    def _predicted(self, X: Any) -> np.ndarray:
        """The network's outputs for each row."""
        validation.check_is_fitted(self, "params_")
        X = self._validated(X, reset=False)
        dtype = jax.tree.leaves(self.params_)[0].dtype
        inputs = self.scale_.apply(X).astype(dtype)
        # Filled up to a power of two, so that a program is compiled for each, not for each length.
        filled = np.zeros((1 << (len(inputs) - 1).bit_length(), inputs.shape[1]), dtype)
        filled[: len(inputs)] = inputs
        with jax.enable_x64(bool(dtype == np.float64)):
            outputs = _outputs(_model(*self._network).apply, self.params_, filled)
        return np.asarray(outputs)[: len(inputs)]


class FNNRegressor(bases.MultiOutputMixin, bases.RegressorMixin, _Network):
    """A network for numbers, as an estimator of scikit-learn.

    It minimizes half the mean squared error of standardized targets, so that units do not matter.

    Args:
        hidden_sizes: the units of each hidden layer; `()` is a linear model.
        activation: of the hidden units: the name of one of `jax.nn` or of `fnn.activations`, or a
            function.
        model: another network in place of these: a function of the number of outputs that returns
            a layer; one of a module can be pickled.
        rule: a name in `fnn.rules`; or a rule, of fnn or of optax; or a function without arguments
            that returns one. "auto" is Levenberg-Marquardt on all examples where a step takes no
            more than 1e9 products (rows P min(rows, P), rows being examples times outputs and P the
            number of parameters), and else adam in mini-batches.
        learning_rate: of a rule that is named and needs one, "adam" for instance.
        decay: weight of half the sum of squares of the parameters, added to the mean loss, >= 0.
        epochs: the most passes through the data.
        batch_size: examples in a step; None is all. "auto" is 64 for names that need a learning
            rate, and all examples for all else.
        tolerance: see `fnn.fit`.
        patience: stop after so many epochs without a lower validation loss, and keep the best
            parameters. None trains on all examples.
        validation_fraction: the share of examples that `patience` looks at, which do not train.
        random_state: of the start, the order of examples and the split; a number repeats a fit.

    Attributes:
        params_: the trained parameters, in arrays of NumPy.
        scale_: means and deviations of the inputs.
        loss_curve_: the mean value in each epoch, penalty included, of standardized targets.
        validation_curve_: the validation loss after each epoch, where there is `patience`.
        n_iter_: epochs that were begun.
        stopped_: why training ended, in a sentence.
        target_scale_: means and deviations of the targets.
        n_features_in_: the number of columns of X.
        feature_names_in_: their names, where X is a frame of strings for names.

    Example:
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 40)[:, None]
        >>> net = FNNRegressor((8,), decay=1e-6, random_state=0).fit(X, 1e6 * np.sin(3 * X[:, 0]))
        >>> net.score(X, 1e6 * np.sin(3 * X[:, 0])) > 0.999
        True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "FNNRegressor":
        """Trains a new network.

        Args:
            X: (n, features) finite numbers, no sparse matrix.
            y: (n,) or (n, outputs) finite numbers.
            sample_weight: (n,) numbers >= 0. The loss is sum(w l) / sum(w); 2 is an example given
                twice, 0 one that is left out.

        Returns:
            The estimator.
        """
        X, y = self._validated(X, y=y, multi_output=True, y_numeric=True)
        y = y.astype(X.dtype, copy=False)
        weights = self._weights(sample_weight, X)
        if weights is not None:
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        table = y.reshape(len(y), -1)
        self.target_scale_ = _scale(table, weights)
        targets, k = self.target_scale_.apply(table), table.shape[1]
        self._train(X, targets, weights, losses.half_squared_error, k)
        self._is_flat = y.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The outputs, in the units of the targets.

        Args:
            X: (n, features) finite numbers.

        Returns:
            (n,) numbers, or (n, outputs) where the targets of `fit` were a table.
        """
        outputs = self._predicted(X)
        mean, deviation = self.target_scale_
        numbers = (outputs * deviation + mean).astype(outputs.dtype)
        return numbers[:, 0] if self._is_flat else numbers


class FNNClassifier(bases.ClassifierMixin, _Network):
    """A network for classes, as an estimator of scikit-learn.

    It minimizes the mean cross-entropy: of one logistic output for two classes, of a softmax over K
    outputs for K.

    Its arguments are those of `FNNRegressor`; validation data hold the classes in equal shares.

    Attributes:
        classes_: the labels in order, those of `predict_proba`'s columns. The others
            are those of `FNNRegressor`.

    Example:
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 40)[:, None]
        >>> net = FNNClassifier((4,), random_state=0).fit(X, np.where(X[:, 0] > 0, "up", "down"))
        >>> net.predict([[-0.5], [0.5]]).tolist()
        ['down', 'up']
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "FNNClassifier":
        """Trains a new network.

        Args:
            X: (n, features) finite numbers, no sparse matrix.
            y: (n,) labels of two classes or more, numbers or strings.
            sample_weight: (n,) numbers >= 0. The loss is sum(w l) / sum(w); 2 is an example given
                twice, 0 one that is left out.

        Returns:
            The estimator.

        Raises:
            ValueError: for a single class.
        """
        X, y = self._validated(X, y=y)
        multiclass.check_classification_targets(y)
        weights = self._weights(sample_weight, X)
        if weights is not None:
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        self.classes_, labels = np.unique(y, return_inverse=True)
        k = len(self.classes_)
        if k < 2:
            raise ValueError(
                f"FNNClassifier: expected two classes or more, got one class, {self.classes_[0]!r}"
            )
        if k == 2:
            self._train(X, labels[:, None].astype(X.dtype), weights, losses.logistic, 1)
        else:
            labels = labels.astype(np.int32)
            self._train(X, labels, weights, losses.softmax_cross_entropy, k)
        return self

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the classes' probabilities, exact where these are tiny.

        Args:
            X: (n, features) finite numbers.

        Returns:
            (n, classes) numbers <= 0.
        """
        outputs = self._predicted(X)
        if outputs.shape[1] == 1:
            outputs = np.hstack([np.zeros_like(outputs), outputs])
        outputs = outputs - outputs.max(axis=1, keepdims=True)
        return outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))

    def predict_proba(self, X: Any) -> np.ndarray:
        """The classes' probabilities.

        Args:
            X: (n, features) finite numbers.

        Returns:
            (n, classes) numbers, whose rows sum to 1.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class.

        Args:
            X: (n, features) finite numbers.

        Returns:
            (n,) labels of `classes_`.
        """
        likeliest = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[likeliest]
