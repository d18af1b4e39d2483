"""Classes to tell apart: digits, flowers and other tables of scikit-learn's, and points it draws.

The columns of the table are the examples, the hidden units, the examples in a mini-batch, the
gradients of a run, the target, and whether inputs are standardized by the training examples.

Source:
    digits         Alpaydin and Kaynak, "Optical recognition of handwritten digits" (1998), the test
                   set
    iris           Fisher, "The use of multiple measurements in taxonomic problems" (1936)
    wine           Aeberhard and Forina, "Wine", UCI Machine Learning Repository (1991)
    breast-cancer  Wolberg, Mangasarian, Street and Street, "Breast cancer Wisconsin (diagnostic)"
                   (1993)
    moons          `make_moons` of scikit-learn, noise 0.1, seed 0
    circles        `make_circles` of scikit-learn, noise 0.1, factor 0.5, seed 0
"""

from collections.abc import Callable, Mapping

import jax

from fnn import data, losses
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import network, standardized, supervised


def _classes(
    name: str,
    summary: str,
    source: str,
    examples: Callable[[], data.Data],
    *,
    hidden: int,
    batch_size: int,
    gradients: float,
    target: float,
    standardize: bool = False,
) -> Problem:
    """One hidden layer of rectified units and softmax; 60 / 20 / 20 % of the examples."""
    everything = examples()
    parts = data.split(everything, (0.6, 0.2, 0.2), jax.random.key(0))
    return supervised(
        name,
        summary,
        source,
        model=network([hidden, int(everything.targets.max()) + 1], jax.nn.relu),
        loss=losses.softmax_cross_entropy,
        parts=standardized(parts) if standardize else parts,
        batch_size=batch_size,
        budget=Budget(gradients, "gradients"),
        target=target,
    )


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "digits": described(
        "1797 real handwritten digits of 8 x 8 pixels, a 64-32-10 network.", _classes, "digits",
        "1797 handwritten digits of 8 x 8 pixels, 64-32-10",
        "Alpaydin and Kaynak (1998), as scikit-learn carries them",
        data.digits, hidden=32, batch_size=32, gradients=200, target=0.12,
    ),
    "iris": described(
        "150 flowers of three species, a 4-16-3 network.", _classes, "iris",
        "150 flowers of three species, 4-16-3",
        "Fisher (1936), as scikit-learn carries them",
        data.iris, hidden=16, batch_size=15, gradients=1500, target=0.1,
    ),
    "wine": described(
        "178 wines of three cultivars by 13 chemical measurements, a 13-16-3 network.",
        _classes, "wine", "178 wines of three cultivars, 13-16-3",
        "Aeberhard and Forina (1991), as scikit-learn carries them",
        data.wine, hidden=16, batch_size=16, gradients=1200, target=0.05, standardize=True,
    ),
    "breast-cancer": described(
        "569 breast tumors, malignant or benign, by 30 measurements, a 30-16-2 network.",
        _classes, "breast-cancer", "569 breast tumors, malignant or benign, 30-16-2",
        "Wolberg et al. (1993), as scikit-learn carries them",
        data.breast_cancer, hidden=16, batch_size=32, gradients=500, target=0.05, standardize=True,
    ),
    "moons": described(
        "1000 points on two interleaved half circles with noise, a 2-16-2 network.",
        _classes, "moons", "1000 points on two half circles, 2-16-2", "made by scikit-learn",
        data.moons, hidden=16, batch_size=25, gradients=600, target=0.05,
    ),
    "circles": described(
        "1000 points on a circle and a smaller one inside it with noise, a 2-16-2 network.",
        _classes, "circles", "1000 points on two circles, 2-16-2", "made by scikit-learn",
        data.circles, hidden=16, batch_size=25, gradients=600, target=0.05,
    ),
}  # fmt: skip
"""The problems by their names."""
