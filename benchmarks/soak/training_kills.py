"""`fit` killed with SIGKILL at twenty random instants and called again: the same bits.

    uv run benchmarks/soak/training_kills.py [SEED]

A network with dropout is trained by Levenberg-Marquardt on shuffled mini-batches until the
validation loss has stopped falling, with a checkpoint whenever `fit` looks. Ten trainings are
killed twice and then finished: once at an instant between the first round and the last, once while
they go on, the start-up and its compilation included. Compared are all bits of the parameters, of
the rule's state and of the history, with those of a training without checkpoints.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import layers, losses, rules
from fnn.training import Checkpoints, Stop

TRAININGS = 10
NETWORK = layers.serial(
    layers.dense(6), layers.elementwise(jnp.tanh), layers.dropout(0.1), layers.dense(1)
)
OBJECTIVE = fnn.Objective(NETWORK.apply, losses.half_squared_error)
RULE = rules.levenberg_marquardt()


def train(folder=None, callback=None):
    """The training that is killed."""
    key = jax.random.key(0)
    inputs = jax.random.uniform(key, (50, 2), minval=-1)
    targets = jnp.sin(3 * inputs[:, :1]) * inputs[:, 1:]
    noisy = targets + 0.1 * jax.random.normal(jax.random.fold_in(key, 1), targets.shape)
    return fnn.fit(
        RULE,
        OBJECTIVE,
        NETWORK.init(key, inputs[0]),
        (inputs[:32], noisy[:32]),
        epochs=2000,
        batch_size=10,
        key=key,
        validation=(inputs[32:], targets[32:]),
        patience=40,
        callback=callback,
        checkpoint=None if folder is None else Checkpoints(folder, seconds=0),
    )


def started(folder):
    """The training in a process of its own; it says when it begins and after each round."""
    command = [sys.executable, __file__, "--train", str(folder)]
    width = {"JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | width)
    child.stdout.readline()
    return child


def killed(folder, seconds, *, running):
    """Kills a training so many seconds after its imports, or after its first round."""
    with started(folder) as child:
        if running:
            child.stdout.readline()
        time.sleep(seconds)
        child.kill()


def newest(folder):
    """The number of the newest checkpoint, 0 if there is none."""
    return max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)


def same(one, other):
    """Whether two fits agree in every bit."""
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    bits = [np.asarray(a).tobytes() == np.asarray(b).tobytes() for (_, a), (_, b) in pairs]
    return all(bits) and jax.tree.structure(one) == jax.tree.structure(other)


def main(seed=0):
    """Kills and compares."""
    rng = random.Random(int(seed))
    whole = train()
    assert whole.stopped == Stop.PATIENCE, str(whole.stopped)
    with tempfile.TemporaryDirectory() as parent:
        with started(Path(parent) / "whole") as child:
            began = time.perf_counter()
            child.stdout.readline()
            compiled = time.perf_counter() - began
            assert child.wait() == 0
            seconds = time.perf_counter() - began
        steps = len(whole.history.value)
        print(f"undisturbed: {steps} steps in {seconds:.1f} s, the first round in {compiled:.1f}")
        for n in range(TRAININGS):
            folder = Path(parent) / str(n)
            for running in (True, False):
                instant = rng.uniform(0, seconds - compiled * running)
                killed(folder, instant, running=running)
                since = "first round" if running else "imports"
                at = f"{instant:4.1f} s after its {since}"
                print(f"training {n}: killed {at}, checkpoint {newest(folder)}", flush=True)
            assert same(train(folder), whole)
            print(f"training {n}: finished, the same bits")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print("started", flush=True)
        train(sys.argv[2], callback=lambda fit: print(len(fit.history.steps), flush=True))
    else:
        main(*sys.argv[1:])
