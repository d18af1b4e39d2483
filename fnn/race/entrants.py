"""Who races: rules of one learning rate, each with the range in which its rate is looked for."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Float, Scalar

from fnn import rules


class Entrant(NamedTuple):
    """A rule and where its learning rate is looked for.

    Attributes:
        name: what it is called on the command line.
        rule: makes the rule from a learning rate, which may be traced.
        lowest: the lowest rate that is tried.
        highest: the highest.
        full_batch: whether a step takes all examples (a line search on one mini-batch would
            minimize noise).
    """

    name: str
    rule: Callable[[float | Scalar], optax.GradientTransformation]
    lowest: float
    highest: float
    full_batch: bool = False

    def rates(self, trials: int) -> Float[np.ndarray, " trials"]:
        """The rates of a search, evenly spaced on a logarithmic scale.

        Args:
            trials: how many; at least 1.

        Returns:
            The rates, ascending; the middle of the range for a single trial.
        """
        if trials == 1:
            return np.array([np.sqrt(self.lowest * self.highest)])
        return np.geomspace(self.lowest, self.highest, trials)


# Every range spans two decades, so that no rule's rate is looked for harder than another's.
ENTRANTS: Mapping[str, Entrant] = {
    entrant.name: entrant
    for entrant in (
        Entrant("sgd", rules.sgd, 3e-2, 3e0),
        Entrant("momentum", rules.momentum, 1e-2, 1e0),
        Entrant("nesterov", rules.nesterov, 1e-2, 1e0),
        Entrant("adagrad", rules.adagrad, 1e-2, 1e0),
        Entrant("rmsprop", rules.rmsprop, 3e-4, 3e-2),
        Entrant("adam", rules.adam, 1e-3, 1e-1),
        Entrant("adamw", rules.adamw, 1e-3, 1e-1),
        Entrant("rprop", rules.rprop, 1e-4, 1e-2, full_batch=True),
        Entrant("lbfgs", optax.lbfgs, 1e-1, 1e1, full_batch=True),
    )
}
CLASSIC = "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "lbfgs"
