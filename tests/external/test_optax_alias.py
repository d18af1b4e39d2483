"""optax's own tests pass unmodified with our rules in place of its optimizers.

`fnn_into_optax` is the plugin that puts them there. The same cases run a second time, beside the
first, on optax's own optimizers: the same number must be selected, skipped and passed.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.gate

HERE = Path(__file__).parent
STAND_INS = {"sgd", "adagrad", "rmsprop", "adam", "adamw", "rprop"}


def start(patched, folder):
    # The environment and settings of this session (x64, warnings as errors) are not optax's, but
    # for the place where compiled programs are kept.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PYTEST_"))}
    environment |= {
        "FNN_PATCH": str(int(patched)),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    options = ["-q", "-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider"]
    tests = ["-p", "fnn_into_optax", "--pyargs", "optax._src.alias_test"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    selected = json.loads(re.search(r"^selected (.*)$", output, re.MULTILINE)[1])
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|skipped|failed)", output)}
    return selected, counts


def test_optax_alias_tests_pass_with_our_rules(tmp_path):
    patched, control = start(True, tmp_path), start(False, tmp_path)
    try:
        (selected, counts), (expected, expected_counts) = read(patched), read(control)
    finally:
        for process in (patched, control):
            process.kill()
    print("patched  ", selected, counts)
    print("unpatched", expected, expected_counts)
    assert selected.keys() == STAND_INS
    assert selected == expected
    assert counts == expected_counts
    assert "failed" not in counts
    # optax skips rprop where parameters are complex
    assert counts["passed"] + counts.get("skipped", 0) == sum(selected.values())
