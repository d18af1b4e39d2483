"""The results of a race as arrays, from which tables and figures are made."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Result(NamedTuple):
    """One rule on one problem.

    A run that stopped before the end of its budget keeps the losses that it had reached; one that
    diverged has a loss of infinity from there on. All seeds have the same rounds.

    Attributes:
        problem: its name.
        rule: its name.
        settings: the hyperparameters of each trial, empty ones where the rule has none to tune.
        chosen: the trial with the lowest median validation loss in the final of the search, or in
            its rounds where it had no final.
        tuning: the lowest validation losses of each trial in the rounds of the search, where all
            trials have the same length, infinity where a run diverged; without a search the loss of
            the first seed.
        finals: the same in the final; NaN for the trials that did not get there.
        rungs: the steps of a run in the rounds, and in the final; 0 without a search.
        tuning_spent: what the search spent, by `problems.COSTS`.
        given_up: the number of trials that were given up as hopeless within their budget.
        seeds: the fresh seeds of the chosen setting.
        costs: the cost until the end of each round, by `problems.COSTS`.
        train: the mean loss over the training data at the end of each round.
        validation: the lowest loss so far over the validation data, as early stopping keeps it.
        test: the problem's measure of the parameters with the lowest validation loss.
        stopped: the reason of each run's end, the name of a `training.Stop` in lower case.
        batch: the examples in a step.
        compile_seconds: the seconds of compiling the run alone.
        run_seconds: the seconds of each seed alone, compiled and warm.
    """

    problem: str
    rule: str
    settings: list[dict[str, Any]]
    chosen: int
    tuning: Float[np.ndarray, "trials tuning_seeds"]
    finals: Float[np.ndarray, "trials tuning_seeds"]
    rungs: tuple[int, int]
    tuning_spent: dict[str, float]
    given_up: int
    seeds: list[int]
    costs: dict[str, Float[np.ndarray, "seeds rounds"]]
    train: Float[np.ndarray, "seeds rounds"]
    validation: Float[np.ndarray, "seeds rounds"]
    test: Float[np.ndarray, " seeds"]
    stopped: list[str]
    batch: int
    compile_seconds: float
    run_seconds: Float[np.ndarray, " seeds"]

    @property
    def setting(self) -> dict[str, Any]:
        """The chosen hyperparameters."""
        return self.settings[self.chosen]

    def to_target(self, target: float, cost: str) -> Float[np.ndarray, " seeds"]:
        """The cost of each seed until its validation loss was at most the target.

        Args:
            target: the loss.
            cost: one of `problems.COSTS`.

        Returns:
            The cost at the end of the first such round, infinity where there is none.
        """
        reached = self.validation <= target
        first = np.argmax(reached, axis=1)
        spent = np.take_along_axis(self.costs[cost], first[:, None], axis=1)[:, 0]
        return np.where(reached.any(axis=1), spent, np.inf)


class Race(NamedTuple):
    """All results of one problem.

    Attributes:
        header: what is needed to repeat it: problem, summary, source, target, measure (its name),
            highest, protocol, versions, device, code.
        results: one result for each rule.
        caveats: sentences about everything that did not go as asked.
        withheld: rules of which nothing can be said, each with the reason as a sentence.
    """

    header: dict
    results: list[Result]
    caveats: list[str]
    withheld: Mapping[str, str] = {}
