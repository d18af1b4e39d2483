"""A network for classes."""

from typing import Any

import numpy as np
import sklearn.base as bases
from sklearn.utils import multiclass

from fnn import losses
from fnn.estimators.network import Network


class FNNClassifier(bases.ClassifierMixin, Network):
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
        examples = self._examples(X, y, sample_weight)
        multiclass.check_classification_targets(examples.targets)
        self.classes_, labels = np.unique(examples.targets, return_inverse=True)
        k = len(self.classes_)
        if k < 2:
            raise ValueError(
                f"FNNClassifier: expected two classes or more, got one class, {self.classes_[0]!r}"
                "; try sklearn.dummy.DummyClassifier, or data of another class"
            )
        loss, targets = losses.softmax_cross_entropy, labels.astype(np.int32)
        if k == 2:
            loss, targets, k = losses.logistic, labels[:, None].astype(examples.inputs.dtype), 1
        self._train(examples._replace(targets=targets), loss, k, is_scaled=False)
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
