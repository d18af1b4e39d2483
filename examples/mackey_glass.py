"""Mackey and Glass's chaotic series, predicted: how far ahead a network of 97 numbers sees.

uv run examples/mackey_glass.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import problems, rules

PICTURE = Path(__file__).parent / "drawn" / "mackey_glass.png"
RULES = {"adam(1e-2)": rules.adam(1e-2), "levenberg_marquardt()": rules.levenberg_marquardt()}


def main(steps: int = 500, picture: Path = PICTURE) -> dict[str, float]:
    """Trains on 500 points of the series; returns the errors on 250 later ones."""
    problem = problems.get("mackey-glass")
    start = problem.init(jax.random.key(0))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.8), layout="constrained", width_ratios=[1, 2]
    )
    errors = {}
    for i, (name, rule) in enumerate(RULES.items()):
        trained = fnn.fit(rule, problem.objective, start, problem.train, steps=steps)
        outputs = problem.objective.outputs(trained.params, problem.test.inputs)
        wrong = (outputs - problem.test.targets)[:, 0]
        errors[name] = float(jnp.sqrt(jnp.mean(wrong**2)))
        left.semilogy(trained.history.value, f"C{i}", label=name)
        right.semilogy(np.abs(wrong), f"C{i}", lw=1, label=f"{name}: {errors[name]:.1e}")
    left.set(xlabel="steps", title="training loss")
    right.set(xlabel="time, after training", title="error six steps ahead (the series: 1)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return errors


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(main())
