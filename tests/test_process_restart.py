"""A job of several processes, one of them killed, goes on from its checkpoint."""

import re
import signal
import subprocess
import sys

import numpy as np

from tests.test_processes import EXAMPLE, free_address

STEPS = 400
WORKER = f"""
import runpy, sys, time
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
jax.config.update("jax_enable_x64", True)
import fnn
from fnn import layers, losses, rules
address, processes, process, folder = sys.argv[1:]
if int(processes) > 1:
    runpy.run_path({EXAMPLE!r})["join"](address, processes, process)
inputs = np.random.default_rng(0).uniform(-1, 1, (256, 2))
tanh = layers.elementwise(jax.numpy.tanh)
model = layers.serial(layers.dense(8), tanh, layers.dense(1))
over = NamedSharding(Mesh(np.array(jax.devices()), ("examples",)), PartitionSpec("examples"))

def say(fitted):
    print(len(fitted.history.value), "steps", flush=True)
    time.sleep(0.1)  # to be killed in

fitted = fnn.fit(
    rules.adam(1e-2),
    fnn.Objective(model.apply, losses.half_squared_error),
    model.init(jax.random.key(0), inputs[0]),
    (inputs, np.sin(3 * inputs[:, :1])),
    steps={STEPS},
    batch_size=64,
    key=jax.random.key(1),
    every=5,
    callback=say,
    sharding=over,
    checkpoint=folder + "/checkpoints",
)
np.save(folder + "/values" + process, fitted.history.value)
"""


def start(processes, folder):
    address = free_address()
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address, str(processes), str(number), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def test_a_killed_job_goes_on_from_its_checkpoint(tmp_path):
    """With as many processes as before, or with fewer; the path is that of an undisturbed run."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    (one,) = start(1, undisturbed)
    first = start(2, disturbed)
    try:
        assert one.communicate(timeout=120)[0].startswith("20 steps")
        for line in first[0].stdout:
            if line == "200 steps\n":
                first[1].send_signal(signal.SIGKILL)
                break
        first[0].communicate(timeout=60)
        assert first[0].returncode != 0
        (again,) = start(1, disturbed)
        said, failed = again.communicate(timeout=120)
        assert again.returncode == 0, failed
    finally:
        for process in (one, *first):
            process.kill()
            process.communicate()
    assert int(re.match(r"(\d+) steps", said)[1]) > 20
    expected, values = (np.load(folder / "values0.npy") for folder in (undisturbed, disturbed))
    assert len(values) == STEPS
    np.testing.assert_allclose(values, expected, rtol=1e-10)
