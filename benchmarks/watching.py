"""What it costs to watch `fit`: callbacks on the digits network, beside a fit that nobody watches.

    uv run benchmarks/watching.py

A 64-32-10 network on all 1797 digits, Adam, batches of 64, float32, 200 epochs. Runs alternate, each
timed right after one of its own that is not; seconds are medians, without compiling, and the ratio
is the median of the runs' own. `bytes` is how much the loop keeps at a time for callbacks.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp

import fnn
from fnn import data, layers, losses, rules
from fnn.training import Callback, trail

RUNS, EPOCHS, BATCH = 11, 200, 64
INPUTS, TARGETS = data.digits()
DATA = jnp.asarray(INPUTS, jnp.float32), jnp.asarray(TARGETS)
MODEL = layers.serial(layers.dense(32), layers.elementwise(jax.nn.relu), layers.dense(10))
PARAMS = MODEL.init(jax.random.key(0), DATA[0][0])
OBJECTIVE, RULE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy), rules.adam(1e-3)

calls = []
CALLBACKS = {
    "nobody watches": None,
    "every step": Callback(calls.append, steps=1),
    "every 10 steps": Callback(calls.append, steps=10),
    "every epoch": calls.append,
    "every 0.1 seconds": Callback(calls.append, seconds=0.1),
}


def train(callback):
    """A whole training; what a callback saw is let go of."""
    calls.clear()
    options = {"epochs": EPOCHS, "batch_size": BATCH, "key": jax.random.key(1)}
    fnn.fit(RULE, OBJECTIVE, PARAMS, DATA, callback=callback, **options)
    return len(calls)


def main():
    """Prints the table."""
    for size in map(int, sys.argv[1:] or [trail._BYTES]):
        trail._BYTES = size
        seconds, seen = {name: [] for name in CALLBACKS}, {}
        for run in range(RUNS + 1):
            for name, callback in CALLBACKS.items():
                train(callback)
                begin = time.perf_counter()
                seen[name] = train(callback)
                if run:
                    seconds[name].append(time.perf_counter() - begin)
        print(f"{'bytes: ' + str(size):20} {'seconds':>9} {'ratio':>7} {'calls':>6}")
        for name, times in seconds.items():
            pairs = zip(times, seconds["nobody watches"], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{name:20} {statistics.median(times):9.4f} {ratio:7.3f} {seen[name]:6}")


if __name__ == "__main__":
    main()
