"""The table that a race prints."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from fnn.problems import Problem
from fnn.race.runner import Result
from fnn.training import Stop


def table(problem: Problem, results: Sequence[Result]) -> Table:
    """Rules from the lowest median training loss to the highest, each at its chosen rate.

    Args:
        problem: what was raced.
        results: what came of each rule.

    Returns:
        A rich table: medians over the seeds, with half their range.
    """
    trials, seeds = results[0].metric.shape
    table = Table(
        title=f"{problem.name}: {problem.summary}",
        caption=(
            f"Median of {seeds} seeds ± half their range, each rule at the best of {trials} "
            f"learning rates by validation loss.\ncompile: {trials * seeds} runs as one program. "
            "run: one of them alone, compiled and warm."
        ),
    )
    table.add_column("rule")
    for name in ("rate", "train loss", f"test {problem.metric[0]}", "steps", "compile", "run"):
        table.add_column(name, justify="right")
    for result in sorted(results, key=_median_train_loss):
        chosen = result.chosen
        diverged = int(np.sum(result.stopped[chosen] == Stop.NON_FINITE))
        table.add_row(
            result.name,
            f"{result.rates[chosen]:.2g}",
            _spread(result.train_loss[chosen, :, -1]),
            f"{diverged} of {seeds} diverged" if diverged else _spread(result.metric[chosen]),
            str(result.steps[-1]),
            f"{result.compile_seconds:.1f} s",
            f"{1000 * result.run_seconds:.0f} ms",
        )
    return table


def _median_train_loss(result: Result) -> float:
    return float(np.nan_to_num(np.median(result.train_loss[result.chosen, :, -1]), nan=np.inf))


def _spread(values: np.ndarray) -> str:
    middle = np.median(values)
    return f"{middle:.3g} ± {np.ptp(values) / (2 * abs(middle) or 1):.0%}"
