"""The store: what a race leaves on disk.

A race writes into a folder of its own, one rule at a time as it is done: a line of JSON in
`runs.jsonl` for each trial and seed, and the curves in `curves-RULE.npz`.
"""

import json
import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from fnn.problems import Problem
from fnn.race.runner import Result
from fnn.training import Stop

_PACKAGES = "fnn", "jax", "jaxlib", "optax", "numpy"


def create(parent: str | Path, problem: Problem) -> Path:
    """A new folder `PARENT/PROBLEM/TIME` for a race.

    Args:
        parent: the folder of all races.
        problem: what is raced.

    Returns:
        The new folder's path.
    """
    folder = Path(parent) / problem.name / datetime.now().strftime("%Y-%m-%dT%H-%M-%S-%f")
    folder.mkdir(parents=True)
    return folder


def append(folder: Path, problem: Problem, result: Result) -> None:
    """Writes down every run of one rule.

    Args:
        folder: made by `create`.
        problem: what was raced.
        result: what came of the rule.
    """
    np.savez_compressed(
        folder / f"curves-{result.name}.npz",
        rates=result.rates,
        steps=result.steps,
        train_loss=result.train_loss,
        validation_loss=result.validation_loss,
    )
    common = {
        "problem": problem.name,
        "rule": result.name,
        "steps": int(result.steps[-1]),
        "compile_seconds": result.compile_seconds,
        "lanes_seconds": result.lanes_seconds,
        "run_seconds": result.run_seconds,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "dtype": str(result.train_loss.dtype),
    }
    with open(folder / "runs.jsonl", "a") as file:
        for trial, seed in np.ndindex(result.metric.shape):
            run = {
                "learning_rate": float(result.rates[trial]),
                "chosen": trial == result.chosen,
                "seed": seed,
                "train_loss": float(result.train_loss[trial, seed, -1]),
                "validation_loss": float(result.validation_loss[trial, seed, -1]),
                problem.metric[0]: float(result.metric[trial, seed]),
                "stopped": Stop(int(result.stopped[trial, seed])).name.lower(),
            }
            file.write(json.dumps(common | run) + "\n")
