"""The targets of problems: the validation loss of tuned Adam.

    uv run --group bench benchmarks/targets.py NAME ...

Adam is tuned with nine runs' worth of tuning and runs from five fresh seeds, at the problem's
budget. What is printed is the median of the lowest validation losses, and the setting that it
belongs to. The target of a problem is that, rounded up by about a tenth; by a thirtieth where the
loss is mostly noise that no model takes away, as with `variational-autoencoder`. NAME:PATH gives a
problem its file or folder. A budget that is counted makes a race the same whenever it is run.

These targets were made so: digits-conv, digits-resnet, char-lstm, char-transformer,
denoising-autoencoder, variational-autoencoder, helmholtz, allen-cahn, heat, sparse-logistic,
robot-arm; and mnist-conv, on the files that test in place of those that train.
"""

import sys
import tempfile

import numpy as np

from fnn import problems, race


def main(names):
    """Prints a line for each problem."""
    for name in names:
        problem = problems.get(*name.split(":"))
        with tempfile.TemporaryDirectory() as folder:
            (adam,) = race.run(problem, ["adam"], seeds=5, trials=9, folder=folder).results
        lowest = adam.validation[:, -1]
        print(
            f"{problem.name:24} {np.median(lowest):.4g} ({lowest.min():.4g} to {lowest.max():.4g})"
            f", {problem.measure.name} {np.median(adam.test):.4g}, target {problem.target:g}, "
            f"{np.median(adam.run_seconds):.2f} s a run, rate {adam.setting['learning_rate']:.3g}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
