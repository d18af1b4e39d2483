"""The table that a race prints."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from fnn.problems import Problem
from fnn.race.runner import Result
from fnn.training import Stop


def table(problem: Problem, results: Sequence[Result]) -> Table:
    """Rules from the lowest median validation loss to the highest, each at its chosen rate.

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
            f"Median of {seeds} seeds ± half their range. Each rule at the best of {trials} "
            "rates,\nand the rules in order, by validation loss. "
            f"compile: {trials * seeds} runs as one program.\n"
            "run: one of them alone, compiled and warm. A full batch takes fewer steps."
        ),
    )
    table.add_column("rule")
    for name in ("rate", "train loss", f"test {problem.metric[0]}", "steps", "compile", "run"):
        table.add_column(name, justify="right")
    for result in sorted(results, key=_validation_loss):
        chosen = result.chosen
        diverged = int(np.sum(result.stopped[chosen] == Stop.NON_FINITE))
        run = f"{1000 * result.run_seconds:.0f}ms"
        table.add_row(
            result.name,
            f"{result.rates[chosen]:.2g}",
            _spread(result.train_loss[chosen, :, -1], ".2g", ".1g"),
            _spread(result.metric[chosen], ".3f", ".3f"),
            str(result.steps[-1]),
            f"{result.compile_seconds:.1f}s",
            f"{diverged} of {seeds} diverged" if diverged else run,
        )
    return table


def _validation_loss(result: Result) -> float:
    median = np.median(result.validation_loss[result.chosen, :, -1])
    return float(np.nan_to_num(median, nan=np.inf))


def _spread(values: np.ndarray, middle: str, half: str) -> str:
    """The median and half the range, each in its format."""
    return f"{np.median(values):{middle}} ± {np.ptp(values) / 2:{half}}"
