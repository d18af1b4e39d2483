"""What both estimators share: the arguments, training, and outputs."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.base as bases
from jaxtyping import PyTree
from sklearn import exceptions, model_selection
from sklearn import utils as sklearn_utils
from sklearn.utils import validation

from fnn import layers
from fnn.bridges import has_statistics
from fnn.estimators.arguments import (
    Factory,
    Rule,
    model_of,
    network,
    network_arguments,
    require_arguments,
    rule_of,
)
from fnn.estimators.scales import Scale
from fnn.interned import interned
from fnn.objective import Objective, l2
from fnn.prediction import predict
from fnn.training import Fit, Stop, fit

DEAR = 1e9
"""Products in a step of Levenberg-Marquardt above which "auto" is adam: some 0.1 s of a core."""

BATCH = 64
"""Examples in a batch of a rule that "auto" gives mini-batches."""

CHUNK = 1024
"""The most rows whose outputs are computed together."""


class Examples(NamedTuple):
    """Rows of a table, what is known of them, and how much each counts; arrays of NumPy or JAX."""

    inputs: Any
    targets: Any
    weights: Any

    def at(self, rows: Any) -> "Examples":
        """Some of them."""
        weights = None if self.weights is None else self.weights[rows]
        return Examples(self.inputs[rows], self.targets[rows], weights)

    def scaled(self, inputs: Scale, targets: Scale | None) -> "Examples":
        """Standardized in the dtype of the inputs, the weights to a mean of 1."""
        dtype, w = self.inputs.dtype, self.weights
        return Examples(
            inputs.apply(self.inputs, dtype),
            self.targets if targets is None else targets.apply(self.targets, dtype),
            None if w is None else (w / w.mean()).astype(dtype),
        )


class Network(bases.BaseEstimator):
    """An estimator that is a network."""

    def __init__(
        self,
        hidden_sizes: int | Sequence[int] = (16,),
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

    def _examples(self, X: Any, y: Any, sample_weight: Any, **checks: Any) -> Examples:
        """X, y and weights as arrays, without what weighs nothing; or the error they deserve."""
        require_arguments(self)
        X, y = self._validated(X, y=y, **checks)
        if sample_weight is None:
            return Examples(X, y, None)
        as_float64: Any = {"dtype": np.float64, "input_name": "sample_weight"}
        weights: Any = sklearn_utils.check_array(sample_weight, ensure_2d=False, **as_float64)
        who = f"{type(self).__name__}: expected sample_weight"
        if weights.shape != (len(X),):
            raise ValueError(
                f"{who} of shape ({len(X)},), a number for each example, got {weights.shape}; try "
                "None for examples that count alike"
            )
        if (weights < 0).any():
            raise ValueError(f"{who} >= 0, got {weights.min()}; try 0 to leave an example out")
        if not weights.any():
            raise ValueError(f"{who} above zero for some example, got all zero; try None")
        return Examples(X, y, weights).at(weights > 0)

    def _validated(self, X: Any, **checks: Any) -> Any:
        """X, or X and y, as arrays; scikit-learn's own errors for what is none."""
        checks = {"dtype": [np.float64, np.float32], **checks}
        return validation.validate_data(self, X, **checks)

    def _train(self, examples: Examples, loss: Callable, k: int, *, is_scaled: bool) -> None:
        """Fits a network with k outputs, of standardized targets if they are scaled."""
        random = sklearn_utils.check_random_state(self.random_state)
        train, held = self._split(examples, random)
        self.scale_ = Scale.of(train.inputs, train.weights)
        targets = Scale.of(train.targets, train.weights) if is_scaled else None
        if targets is not None:
            self.target_scale_ = targets
        train = train.scaled(self.scale_, targets)
        held = None if held is None else held.scaled(self.scale_, targets)
        with jax.enable_x64(bool(train.inputs.dtype == np.float64)):
            key = jax.random.key(random.randint(2**31 - 1))
            trained, steps = self._fitted(train, held, loss, k, key)
        self._network: Any = network_arguments(self, k)
        self.params_ = jax.tree.map(np.asarray, trained.params)
        self.stopped_ = str(trained.stopped)
        if trained.stopped == Stop.NON_FINITE:
            who = type(self).__name__
            warnings.warn(f"{who}: {self.stopped_}", exceptions.ConvergenceWarning, stacklevel=3)
        value = trained.history.value
        self.n_iter_ = max(1, -(-len(value) // steps))
        self.loss_curve_ = [float(value[i : i + steps].mean()) for i in range(0, len(value), steps)]
        self.validation_curve_ = [float(x) for x in trained.history.validation.get("loss", ())]

    def _fitted(
        self, train: Examples, held: Examples | None, loss: Callable, k: int, key: jax.Array
    ) -> tuple[Fit, int]:
        """What `fit` makes of the examples, fit for inference, and the steps in an epoch."""
        rows, dtype = len(train.inputs), train.inputs.dtype
        example = jax.ShapeDtypeStruct(train.inputs.shape[1:], np.float32)
        model = model_of(self, k, example)
        start, shuffling = jax.random.split(key)
        params = model.init(start, example)  # the same numbers in all dtypes
        params = jax.tree.map(functools.partial(_cast, dtype), params)
        train, held = jax.tree.map(jnp.asarray, (train, held))
        prepare = None
        if has_statistics(params):
            prepare = functools.partial(layers.calibrate, model, inputs=train.inputs)
            jax.eval_shape(prepare, params)  # raises before anything is trained
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        is_cheap = rows * k * size * min(rows * k, size) <= DEAR and prepare is None
        rule, in_batches = rule_of(self, "levenberg_marquardt" if is_cheap else "adam")
        batch_size: Any = self.batch_size
        if batch_size == "auto":
            batch_size = BATCH if in_batches else None
        batch_size = None if batch_size is None or batch_size >= rows else int(batch_size)
        look = None
        if held is not None:  # validation knows no penalty
            alone = _objective(model.apply, loss, 0.0)
            look = alone.on((held.inputs, held.targets), weights=held.weights)
        with _explained(type(self).__name__, prepare is not None):
            trained = fit(
                rule,
                _objective(model.apply, loss, float(self.decay)),
                params,
                (train.inputs, train.targets),
                weights=train.weights,
                epochs=self.epochs,
                batch_size=batch_size,
                key=shuffling,
                validation=look,
                patience=self.patience,
                tolerance=self.tolerance,
                prepare=None if held is None else prepare,
            )
        if prepare is not None:
            trained = trained._replace(params=prepare(trained.params))
        return trained, 1 if batch_size is None else -(-rows // batch_size)

    def _split(
        self, examples: Examples, random: np.random.RandomState
    ) -> tuple[Examples, Examples | None]:
        """What trains and, where there is patience, what validates, classes in equal shares."""
        if self.patience is None:
            return examples, None
        n, who = len(examples.inputs), type(self).__name__
        held = int(np.ceil(self.validation_fraction * n))
        labels = examples.targets.ravel() if bases.is_classifier(self) else None
        least = 1
        if labels is not None:
            classes, counts = np.unique(labels, return_counts=True)
            least = len(classes)
            if counts.min() < 2:
                alone: Any = self
                raise ValueError(
                    f"{who}: expected two examples or more of each class, one to train and one to "
                    f"validate, got one of class {alone.classes_[counts.argmin()]}; try "
                    "patience=None, or to leave that class out"
                )
        if not least <= held <= n - least:
            raise ValueError(
                f"{who}: expected validation_fraction to leave {least} examples or more to train "
                f"and to validate, got {self.validation_fraction} of {n} examples, which is "
                f"{held}; try patience=None, which trains on all"
            )
        train, rest = model_selection.train_test_split(
            np.arange(n), test_size=held, random_state=random, stratify=labels
        )
        return examples.at(train), examples.at(rest)

    def _predicted(self, X: Any) -> np.ndarray:
        """The network's outputs for each row."""
        validation.check_is_fitted(self, "params_")
        X = self._validated(X, reset=False)
        dtype = jax.tree.leaves(self.params_)[0].dtype
        inputs = self.scale_.apply(X, dtype)
        # Filled up to a power of two, so that a program is compiled for each, not for each length.
        filled = np.zeros((1 << (len(inputs) - 1).bit_length(), inputs.shape[1]), dtype)
        filled[: len(inputs)] = inputs
        with jax.enable_x64(bool(dtype == np.float64)):
            outputs = predict(network(*self._network), self.params_, filled, chunk=CHUNK)
        return np.asarray(outputs)[: len(inputs)]


@interned
def _objective(apply: Callable, loss: Callable, decay: float) -> Objective:
    """One objective for equal arguments, so that nothing is compiled twice."""
    objective = Objective(apply, loss)
    return objective + l2(decay) if decay else objective


def _cast(dtype: np.dtype, leaf: PyTree) -> jax.Array:
    """A leaf of floating point in a dtype."""
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@contextlib.contextmanager
def _explained(who: str, is_normalized: bool) -> Generator[None]:
    """Adds to an error of a rule that batch normalization is trained by gradients."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if is_normalized:
            error.add_note(
                f"{who}: a model with batch normalization takes a first-order rule; try rule='adam'"
            )
        raise
