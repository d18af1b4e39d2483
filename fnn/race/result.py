"""The results of a race as arrays, from which tables and figures are made."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from fnn.requirements import load


class Result(NamedTuple):
    """One rule on one problem.

    A run that stopped before the end of its budget keeps the losses that it had reached; one that
    diverged has a loss of infinity from there on. All seeds have the same number of laps.

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
        seeds: the fresh seeds of the chosen setting.
        costs: the cost until the end of each lap, by `problems.COSTS`.
        train: the mean loss over the training data at the end of each lap.
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
    seeds: list[int]
    costs: dict[str, Float[np.ndarray, "seeds laps"]]
    train: Float[np.ndarray, "seeds laps"]
    validation: Float[np.ndarray, "seeds laps"]
    test: Float[np.ndarray, " seeds"]
    stopped: list[str]
    batch: int
    compile_seconds: float
    run_seconds: Float[np.ndarray, " seeds"]

    @property
    def setting(self) -> dict[str, Any]:
        """The chosen hyperparameters."""
        return self.settings[self.chosen]

    def to_target(self, target: ArrayLike, cost: str) -> Float[np.ndarray, " seeds"]:
        """The cost of each seed until its validation loss was at most the target.

        Args:
            target: the loss, or one for each seed.
            cost: one of `problems.COSTS`.

        Returns:
            The cost at the end of the first such lap, infinity where there is none.
        """
        reached = self.validation <= np.reshape(target, (-1, 1))
        first = np.argmax(reached, axis=1)
        spent = np.take_along_axis(self.costs[cost], first[:, None], axis=1)[:, 0]
        return np.where(reached.any(axis=1), spent, np.inf)

    def __repr__(self) -> str:
        """The result in a line, without its arrays."""
        setting = ", ".join(
            f"{name}={f'{value:.3g}' if isinstance(value, float) else value}"
            for name, value in self.setting.items()
        )
        return (
            f"<{self.rule} on {self.problem}: validation loss {self._loss():.3g}, the median of "
            f"{len(self.seeds)} seeds, at {setting or 'its defaults'}>"
        )

    def _loss(self) -> float:
        """The median of the lowest validation losses, infinity for those that are not finite."""
        last = self.validation[:, -1]
        return float(np.median(np.where(np.isfinite(last), last, np.inf)))


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

    def frame(self) -> Any:
        """The seeds as a data frame, a row for each rule and seed; pandas must be there.

        Returns:
            A `pandas.DataFrame`: problem, rule and seed; the hyperparameters, NaN where a rule has
            no such one; the batch; the costs of the whole run, by `problems.COSTS`;
            `seconds_to_target`, infinity for a miss; the losses `train` and `validation` and the
            measure `test`, as in `Result`; and why the run `stopped`.
        """
        return load("Race.frame", "pandas").DataFrame(
            {
                "problem": r.problem, "rule": r.rule, "seed": seed, **r.setting, "batch": r.batch,
                **{name: cost[i, -1] for name, cost in r.costs.items()},
                "seconds_to_target": spent, "train": r.train[i, -1],
                "validation": r.validation[i, -1], "test": r.test[i], "stopped": r.stopped[i],
            }
            for r in self.results
            for i, (seed, spent) in enumerate(
                zip(r.seeds, r.to_target(self.header["target"], "seconds"), strict=True)
            )
        )  # fmt: skip

    def curves(self) -> Any:
        """The curves as a data frame, a row for each rule, seed and lap; pandas must be there.

        Returns:
            A `pandas.DataFrame`: problem, rule and seed; the costs until the end of the lap, by
            `problems.COSTS`; the losses `train` and `validation`, as in `Result`.
        """
        return load("Race.curves", "pandas").DataFrame(
            {
                "problem": r.problem, "rule": r.rule, "seed": seed,
                **{name: cost[i, k] for name, cost in r.costs.items()},
                "train": r.train[i, k], "validation": r.validation[i, k],
            }
            for r in self.results
            for i, seed in enumerate(r.seeds)
            for k in range(r.train.shape[1])
        )  # fmt: skip

    def __repr__(self) -> str:
        """The race in a line: the rules from the lowest median loss up, without their arrays."""
        losses = sorted((result._loss(), result.rule) for result in self.results)
        rules = ", ".join(f"{rule} {loss:.3g}" for loss, rule in losses[:3])
        more = f" and {len(losses) - 3} more" if len(losses) > 3 else ""
        found = f"median validation losses: {rules}{more}" if losses else "no rule is done"
        return f"<race of {self.header['problem']}, {found}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary, the standings and the caveats."""
        # The report is built upon results; a notebook alone comes to it from here.
        return importlib.import_module("fnn.race.report").glance(self)
