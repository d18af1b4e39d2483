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

EXAMPLE = str(Path(__file__).parents[1] / "examples" / "multi_process.py")
WORKER = f"""
import runpy, sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
example = runpy.run_path({EXAMPLE!r})
example["join"](*sys.argv[1:4])
steps, folder = int(sys.argv[5]), sys.argv[6]
values = example["main"](steps, width=6, picture=folder + "/example.png")
np.save(folder + "/values" + sys.argv[3], values)
"""


def free_address():
    """A port of this host that nobody uses."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@contextlib.contextmanager
def started(processes, devices, steps, folder):
    """The processes, which do not outlive the test."""
    address = free_address()

    def start(number):
        numbers = map(str, (processes, number, devices, steps))
        command = [sys.executable, "-W", "error", "-c", WORKER, address, *numbers, str(folder)]
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The values of a single process."""
    main = runpy.run_path(EXAMPLE)["main"]
    return main(steps=20, width=6, picture=tmp_path_factory.mktemp("alone") / "example.png")


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_reproduce_a_single_one(alone, processes, devices, tmp_path):
    with started(processes, devices, 20, tmp_path) as running:
        for one in running:
            said = one.communicate(timeout=120)
            assert one.returncode == 0, said
    assert alone[-1] < alone[0] / 2
    for number in range(processes):
        np.testing.assert_allclose(np.load(tmp_path / f"values{number}.npy"), alone, rtol=1e-10)
    assert (tmp_path / "example.png").stat().st_size > 10_000


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_ends_the_job_with_a_message(dead, tmp_path):
    with started(2, 1, 10**6, tmp_path) as running:
        assert "20 steps on 2 devices" in running[0].stdout.readline()
        running[dead].send_signal(signal.SIGKILL)
        began = time.monotonic()
        _, said = running[1 - dead].communicate(timeout=60)
        assert time.monotonic() - began < 60
        assert running[1 - dead].returncode != 0
    assert "Connection closed" in said or "another task died" in said, said
