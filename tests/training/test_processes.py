"""Several processes on one host, with gloo between them, run the example of the package."""

import contextlib
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.gate

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "multi_process.py")
WORKER = f"""
import runpy, sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import fnn
example = runpy.run_path({EXAMPLE!r})
example["join"](*sys.argv[1:4])
np.save(sys.argv[3], example["main"](20, width=6, picture="example.png"))
print("saved", flush=True)
fnn.fit(
    fnn.rules.sgd(1e-2),
    fnn.Objective(lambda w, x: w * x),
    jax.numpy.ones(()),
    np.ones(8),
    steps=10**9,
    every=1000,
    callback=example["say"],
    sharding=NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec("all")),
)
"""


def free_address():
    """A port of this host that nobody uses."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@contextlib.contextmanager
def started(processes, devices, folder):
    """The processes, which do not outlive the test."""
    address = free_address()

    def start(number):
        numbers = map(str, (processes, number, devices))
        command = [sys.executable, "-W", "error", "-c", WORKER, address, *numbers]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        )

    running = [start(number) for number in range(processes)]
    try:
        yield running
    finally:
        for one in running:
            one.kill()
            one.communicate()


def wait_for(process, text):
    """Reads what a process says until it says this."""
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(process.communicate()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The values of a single process."""
    main = runpy.run_path(EXAMPLE)["main"]
    return main(steps=20, width=6, picture=tmp_path_factory.mktemp("alone") / "example.png")


@pytest.mark.parametrize(("processes", "devices", "dead"), [(2, 2, 0), (4, 1, 1)])
def test_processes_reproduce_a_single_one_and_end_when_one_dies(
    alone, processes, devices, dead, tmp_path
):
    """The one that is killed is the first, whom all others know, or another one."""
    with started(processes, devices, tmp_path) as running:
        for one in running:
            wait_for(one, "saved")
        assert alone[-1] < alone[0] / 2
        for number in range(processes):
            np.testing.assert_allclose(np.load(tmp_path / f"{number}.npy"), alone, rtol=1e-10)
        assert (tmp_path / "example.png").stat().st_size > 10_000

        wait_for(running[0], "1000 steps")
        running[dead].send_signal(signal.SIGKILL)
        ends = time.monotonic() + 60
        for one in running[:dead] + running[dead + 1 :]:
            _, said = one.communicate(timeout=ends - time.monotonic())
            assert one.returncode != 0
            assert "Connection closed" in said or "another task died" in said, said
