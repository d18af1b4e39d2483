"""A network for numbers."""

from typing import Any

import numpy as np
import sklearn.base as bases

from fnn import losses
from fnn.estimators.network import Network


class FNNRegressor(bases.MultiOutputMixin, bases.RegressorMixin, Network):
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
        examples = self._examples(X, y, sample_weight, multi_output=True, y_numeric=True)
        y = examples.targets
        table = y.reshape(len(y), -1)
        if table.dtype.kind != "f":
            table = table.astype(np.float64)
        self._train(
            examples._replace(targets=table),
            losses.half_squared_error,
            table.shape[1],
            is_scaled=True,
        )
        self._is_flat = y.ndim == 1
        # What float32 rounds away of large targets, float64 of the sums below does not.
        self._dtype = np.result_type(examples.inputs.dtype, table.dtype)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The outputs, in the units of the targets.

        Args:
            X: (n, features) finite numbers.

        Returns:
            (n,) numbers, or (n, outputs) where the targets of `fit` were a table.
        """
        outputs = self._predicted(X)
        numbers = self.target_scale_.undo(outputs, self._dtype)
        return numbers[:, 0] if self._is_flat else numbers
