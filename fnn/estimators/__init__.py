"""Estimators of scikit-learn: `fit` behind its doors, for pipelines, searches and cross-validation.

    FNNRegressor     numbers, one or several for an example
    FNNClassifier    classes, two or more, by any labels

They are networks of dense layers (or any model) trained by any rule. Inputs and targets of the
regressor are standardized inside, by the weighted means and deviations of the examples that train,
so that a fit does not depend on units. They compute in the dtype of X: float64 for arrays of NumPy
as they come, whatever the program's own setting of JAX, and float32 for arrays of float32.

A model with batch normalization needs nothing more: its statistics are those of the examples that
train, under the parameters that are looked at (`layers.calibrate`), for validation and prediction
alike. It sees every example once, whatever the example's weight.

A fit of the same arguments and shapes compiles nothing again; where a model with batch
normalization has `patience`, it does. What `fit` keeps are plain arrays, so that estimators can be
copied, pickled and sent to other processes, if their arguments can: a rule made by a call is a pair
of local functions, which the processes of joblib take and `pickle` does not; its name, or
`functools.partial(rules.adam, 1e-2)`, goes everywhere. Arguments are checked when `fit` is called,
as scikit-learn wants it.

arguments      what an estimator is made with, and what is wrong with it
scales         numbers of mean 0 and deviation 1, and back
network        what both estimators share
regressor      numbers
classifier     classes
"""

from fnn.requirements import require

__requires__ = require("estimators", "sklearn")

from fnn.estimators.classifier import FNNClassifier as FNNClassifier
from fnn.estimators.regressor import FNNRegressor as FNNRegressor

__all__ = ["FNNClassifier", "FNNRegressor"]
__dir__ = __all__.copy
