"""The estimators beside scikit-learn's networks: scores and seconds, everybody by the defaults.

    uv run benchmarks/estimators.py

Cross-validation in five folds, the same for everybody, of three seeds each: R^2 of held-out numbers
and the share of held-out labels that are right. scikit-learn's networks get inputs scaled by its
StandardScaler; ours scale them inside. Seconds are those of all fifteen fits, the first compilation
included, and of the last five.
"""

import json
import platform
import time
import warnings
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fnn.estimators import FNNClassifier, FNNRegressor

SEEDS = 0, 1, 2
PROBLEMS = {
    "diabetes": datasets.load_diabetes(return_X_y=True),
    "friedman1": datasets.make_friedman1(n_samples=400, random_state=0),
    "iris": datasets.load_iris(return_X_y=True),
    "breast cancer": datasets.load_breast_cancer(return_X_y=True),
    "digits": datasets.load_digits(return_X_y=True),
}
NUMBERS = "diabetes", "friedman1"


def contestants(name, seed):
    """Ours and theirs for a problem."""
    ours, theirs = FNNClassifier, MLPClassifier
    if name in NUMBERS:
        ours, theirs = FNNRegressor, MLPRegressor
    scaled = make_pipeline(StandardScaler(), theirs(random_state=seed))
    return {ours.__name__: ours(random_state=seed), theirs.__name__: scaled}


def scores(name, seed):
    """The scores of the folds, and the seconds that they took, of each contestant."""
    folds = (KFold if name in NUMBERS else StratifiedKFold)(5, shuffle=True, random_state=seed)
    for who, estimator in contestants(name, seed).items():
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            of_folds = cross_val_score(estimator, *PROBLEMS[name], cv=folds, error_score="raise")
        yield who, of_folds, time.perf_counter() - begin


def main():
    """Prints the table and writes the JSON."""
    print(f"{'':14} {'':14} {'score':>7} {'+-':>6} {'seconds':>8} {'last five':>9}")
    rows = {}
    for name in PROBLEMS:
        found = {}
        for seed in SEEDS:
            for who, of_folds, seconds in scores(name, seed):
                found.setdefault(who, []).append((of_folds, seconds))
        for who, runs in found.items():
            of_folds, seconds = np.concatenate([run[0] for run in runs]), [run[1] for run in runs]
            row = {
                "score": float(of_folds.mean()),
                "standard_error": float(of_folds.std(ddof=1) / np.sqrt(of_folds.size)),
                "seconds": sum(seconds),
                "seconds_of_last_five": seconds[-1],
            }
            rows.setdefault(name, {})[who] = row
            print(
                f"{name:14} {who:14} {row['score']:7.4f} {row['standard_error']:6.4f} "
                f"{row['seconds']:8.2f} {row['seconds_of_last_five']:9.2f}",
                flush=True,
            )
    packages = "fnn", "jax", "jaxlib", "optax", "numpy", "scikit-learn"
    report = {
        "seeds": len(SEEDS),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / f"estimators-{jax.default_backend()}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
