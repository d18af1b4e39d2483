"""A job of two processes, one of them killed, goes on from its checkpoint in a single one."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn import Objective, fit, layers, losses, rules
from tests.training.test_processes import EXAMPLE, free_address, wait_for

pytestmark = pytest.mark.gate

STEPS = 400
ROOT = str(Path(__file__).parents[2])
WORKER = f"""
import runpy, sys, time
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from fnn.training import Checkpoints
from tests.training.test_process_restart import train
address, processes, process = sys.argv[1:]
if processes != "1":
    runpy.run_path({EXAMPLE!r})["join"](address, processes, process)

def say(fitted):
    print(len(fitted.history.value), "steps", flush=True)
    time.sleep(0.1)  # to be killed in

np.save("values", train(jax.devices(), callback=say, checkpoint=Checkpoints("kept", seconds=0)))
"""


def train(devices, **options):
    """The values of a fit with mini-batches on all of some devices."""
    inputs = np.random.default_rng(0).uniform(-1, 1, (256, 2))
    model = layers.serial(layers.dense(8), layers.elementwise(jnp.tanh), layers.dense(1))
    trained = fit(
        rules.adam(1e-2),
        Objective(model.apply, losses.half_squared_error),
        model.init(jax.random.key(0), inputs[0]),
        (inputs, np.sin(3 * inputs[:, :1])),
        steps=STEPS,
        batch_size=64,
        key=jax.random.key(1),
        every=5,
        sharding=NamedSharding(Mesh(np.array(devices), ("examples",)), PartitionSpec("examples")),
        **options,
    )
    return trained.history.value


def start(processes, folder):
    address = free_address()
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address, str(processes), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        for number in range(processes)
    ]


def test_a_killed_job_goes_on_from_its_checkpoint(tmp_path):
    """Where it was, on another number of devices, and ends as an undisturbed run ends."""
    first = start(2, tmp_path)
    try:
        wait_for(first[0], "200 steps")
        first[1].send_signal(signal.SIGKILL)
        first[0].communicate(timeout=60)
        assert first[0].returncode != 0
    finally:
        for process in first:
            process.kill()
            process.communicate()
    (again,) = start(1, tmp_path)
    said, failed = again.communicate(timeout=120)
    assert again.returncode == 0, failed
    assert int(re.match(r"(\d+) steps", said)[1]) > 100
    values, undisturbed = np.load(tmp_path / "values.npy"), train(jax.devices()[:1])
    assert len(values) == STEPS
    np.testing.assert_allclose(values, undisturbed, rtol=1e-10)
