"""A million steps of `fit` with checkpoints: memory stays flat, and no file stays open.

    MALLOC_ARENA_MAX=2 uv run benchmarks/soak/long_fit.py [STEPS] [SECONDS]

Resident memory is measured after each round, and a line is fitted to it, after a first fifth in
which programs are compiled and threads are started. What must grow is the history, a value for each
step and a count and a validation loss for each round; it is subtracted. What is left of the slope
with checkpoints are copies of that history, which a checkpoint writes whole: the allocator keeps
them (without MALLOC_ARENA_MAX, in an arena for each thread), be there 50 checkpoints or 186. With
SECONDS between two of them longer than the run the slope is that of training alone.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn import layers, losses
from fnn.training import Checkpoints

NETWORK = layers.serial(layers.dense(8), layers.elementwise(jnp.tanh), layers.dense(1))
OBJECTIVE = fnn.Objective(NETWORK.apply, losses.half_squared_error)


def resident():
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def handles():
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def main(steps=1_000_000, seconds=2.0):
    """Trains, measures, and prints; the slope in MB per 100000 steps, and the files open."""
    key = jax.random.key(0)
    inputs = jax.random.uniform(key, (64, 2), minval=-1)
    data = inputs, jnp.prod(inputs, axis=1, keepdims=True)
    rule, params, seen = optax.adam(1e-3), NETWORK.init(key, inputs[0]), []

    def measure(fitted):
        history = sum(leaf.nbytes for leaf in jax.tree.leaves(fitted.history))
        seen.append((len(fitted.history.value), resident() - history, handles()))

    with tempfile.TemporaryDirectory() as folder:

        def train(steps, folder):
            return fnn.fit(
                rule,
                OBJECTIVE,
                params,
                data,
                steps=steps,
                batch_size=32,
                key=key,
                every=1000,
                validation=data,
                callback=measure,
                checkpoint=Checkpoints(folder, seconds=seconds),
            )

        train(4000, f"{folder}/first")  # imports orbax, which opens files of its own
        seen.clear()
        before, began = handles(), time.perf_counter()
        fitted = train(steps, f"{folder}/long")
        taken, after = time.perf_counter() - began, handles()
        made = max(
            int(path.name) for path in Path(folder, "long").iterdir() if path.name.isdecimal()
        )
    at, held, opened = np.array(seen[len(seen) // 5 :]).T
    slope = np.polyfit(at / 1e5, held / 1e6, 1)[0]
    print(f"{len(fitted.history.value)} steps and {made} checkpoints in {taken:.1f} s", flush=True)
    print(
        f"memory: {slope:+.3f} MB per 100000 steps, history aside, {held[-1] / 1e6:.0f} MB in all"
    )
    print(f"files open: {before} before, at most {opened.max()} meanwhile, {after} after")
    return slope, (before, after)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
