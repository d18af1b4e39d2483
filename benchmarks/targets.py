"""The targets of problems: the validation loss of a tuned rule.

    uv run --group bench benchmarks/targets.py NAME ...

For each problem, `adam` and other first-order rules are tuned by nine trials each and run from five
fresh seeds, at the problem's budget. What is printed is the median of the lowest validation losses,
with the setting that it belongs to. The target of a problem is that of the best of them, rounded up
by about a tenth. Budgets in gradients make a race the same whenever it is run.
"""

import sys
import tempfile

import numpy as np

from fnn import problems, race

RULES = "adam", "momentum", "rmsprop", "levenberg_marquardt"


def main(names):
    """Prints a line for each rule on each problem."""
    for name in names:
        problem = problems.get(*name.split(":"))
        with tempfile.TemporaryDirectory() as folder:
            raced = race.run(problem, RULES, seeds=5, trials=9, folder=folder)
        for result in raced.results:
            lowest = result.validation[:, -1]
            setting = {name: f"{value:.3g}" for name, value in result.setting.items()}
            print(
                f"{problem.name:24} {result.rule:20} {np.median(lowest):.4g} "
                f"({lowest.min():.3g} to {lowest.max():.3g}) {problem.measure.name} "
                f"{np.median(result.test):.4g}, {np.median(result.run_seconds):.2f} s {setting}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
