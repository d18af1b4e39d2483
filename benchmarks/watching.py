"""What it costs to watch `fit`: callbacks on the digits network, beside a fit that nobody watches.

    uv run benchmarks/watching.py

A 64-32-10 network on all 1797 digits, Adam, batches of 64, float32, 200 epochs. Runs alternate,
each timed right after one of its own that is not. Seconds are medians, without compiling, and so
are the ratios, each of a run to the one beside it that nobody watched: of the time by the clock,
and of the processor's, which other processes disturb less but which counts what runs side by side
as if it ran in turn.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import data, layers, losses, rules
from fnn.training import Callback

RUNS, EPOCHS, BATCH = 11, 200, 64
INPUTS, TARGETS = data.digits()
DATA = jnp.asarray(INPUTS, jnp.float32), jnp.asarray(TARGETS)
MODEL = layers.serial(layers.dense(32), layers.elementwise(jax.nn.relu), layers.dense(10))
PARAMS = MODEL.init(jax.random.key(0), DATA[0][0])
OBJECTIVE, RULE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy), rules.adam(1e-3)

seen = [0, 0.0]


def watch(fit):
    """Reads what a logger would."""
    seen[0] += 1
    seen[1] += fit.history.value[-1]


CALLBACKS = {
    "nobody watches": None,
    "every step": Callback(watch, steps=1),
    "every 10 steps": Callback(watch, steps=10),
    "every epoch": watch,
    "every 0.1 seconds": Callback(watch, seconds=0.1),
}


def train(callback):
    """A whole training; returns how often the callback was called."""
    seen[0] = 0
    options = {"epochs": EPOCHS, "batch_size": BATCH, "key": jax.random.key(1)}
    fnn.fit(RULE, OBJECTIVE, PARAMS, DATA, callback=callback, **options)
    return seen[0]


def timed(callback):
    """The seconds by the clock, and the processor's, of a whole training."""
    begin = time.perf_counter(), time.process_time()
    train(callback)
    return np.subtract((time.perf_counter(), time.process_time()), begin)


def main():
    """Prints the table."""
    took = {name: [] for name in CALLBACKS}
    for run in range(RUNS + 1):
        for name, callback in CALLBACKS.items():
            train(callback)
            if run:
                took[name].append(timed(callback))
    alone = np.array(took["nobody watches"])
    print(f"{'':20} {'seconds':>9} {'ratio':>7} {'of processor':>13} {'calls':>6}")
    for name, callback in CALLBACKS.items():
        seconds, times = np.median(took[name], axis=0), np.array(took[name]) / alone
        clock, processor = np.median(times, axis=0)
        print(f"{name:20} {seconds[0]:9.4f} {clock:7.3f} {processor:13.3f} {train(callback):6}")


if __name__ == "__main__":
    main()
