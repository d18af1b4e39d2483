"""Tests run in float64; `float32` lanes say so by name. Without a browser, its test is left out.

More of their time goes into compiling programs that run once than into anything else, so XLA
compiles cheaply: the steps of `kfac` and `hessian_free` in a fifth of the time. A jaxlib that does
not know one of these flags says which; `XLA_FLAGS= uv run pytest` is as users compile.
"""

import gc
import os
import subprocess
import sys
import textwrap

import jax
import pytest

from tests.race import chromium

USUAL = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}
CHEAPLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
os.environ.setdefault("XLA_FLAGS", " ".join(f"--{flag}={to}" for flag, to in CHEAPLY.items()))

gc.set_threshold(50_000, 10, 10)  # tracing makes many objects, and few that a collection frees

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)  # of which all tests but those of sharding use one

BROWSER = "tests/race/test_browser.py"
HINT = "try apt-get install chromium"


def pytest_configure():
    """Where a browser is demanded, its absence is an error."""
    if os.environ.get("FNN_REQUIRE_BROWSER") == "1" and chromium.found() is None:
        raise pytest.UsageError(f"{BROWSER}: expected a browser, found none; {HINT}")


def pytest_report_header():
    """Says what is left out."""
    if chromium.found() is None:
        return f"{BROWSER} is deselected: no chromium found; {HINT}"
    return None


def pytest_collection_modifyitems(config, items):
    """Leaves out what needs a browser where there is none."""
    if chromium.found() is None:
        left_out = [item for item in items if item.nodeid.startswith(BROWSER)]
        items[:] = [item for item in items if not item.nodeid.startswith(BROWSER)]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def memory():
    """Bytes of a program that is compiled as users compile it, `memory(fn, *args)`."""

    def analysis(fn, *args):
        compiled = jax.jit(fn).lower(*args).compile(compiler_options=USUAL)
        return compiled.memory_analysis()

    return analysis


@pytest.fixture
def runs_alone():
    """A program that runs to its end by itself, in float32, or fails: a hang must not stop us.

    Batched factorizations deadlock a CPU's thread pool.
    """

    def run(program):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program) + "print('done')"],
            timeout=120,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "done", done.stderr

    return run
