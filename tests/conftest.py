"""Tests run in float64; `float32` lanes say so by name. Without a browser, its test is left out.

More of their time goes into compiling programs that run once than into anything else. So what was
compiled is kept from one run to the next in `.jax_cache`, which can be deleted at any time, and
XLA compiles cheaply: the steps of `kfac` and `hessian_free` in a fifth of the time. This is asked
for by flags, at which a jaxlib that does not know them aborts; workers are given those that it
knows. Without workers (`-n0`), or with `XLA_FLAGS= uv run pytest`, XLA compiles as for users.
"""

import gc
import itertools
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import pytest

from fnn import mappings
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

gc.set_threshold(50_000, 10, 10)  # tracing makes many objects, and few that a collection frees

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)  # of which all tests but those of sharding use one

# Programs that compile in milliseconds are kept, too: there are thousands of them. Processes that
# tests start do not look here: some are killed while they write, and some take warnings as errors.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
if jax.__version_info__ >= (0, 12):  # which was seen to abort while it wrote there
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # for the processes that tests start
    jax.config.update("jax_enable_compilation_cache", False)

BROWSER = "tests/race/test_browser.py"
LONGEST = "tests/test_site.py"
HINT = "try apt-get install chromium"
ENDED = itertools.count(1)  # of a worker's tests


def known(options):
    """Those of some options of the compiler that this jaxlib knows."""
    program, kept = jax.jit(abs).lower(0.0), {}
    for name, to in options.items():
        try:
            program.compile(compiler_options={name: to})
        except jax.errors.JaxRuntimeError:
            continue
        kept[name] = to
    return kept


def pytest_configure(config):
    """Workers compile cheaply. Where a browser is demanded, its absence is an error."""
    if config.getoption("numprocesses", None) and "XLA_FLAGS" not in os.environ:
        flags = [f"--{name}={str(to).lower()}" for name, to in known(CHEAPLY).items()]
        os.environ["XLA_FLAGS"] = " ".join(flags)
    if os.environ.get("FNN_REQUIRE_BROWSER") == "1" and chromium.found() is None:
        raise pytest.UsageError(f"{BROWSER}: expected a browser, found none; {HINT}")


def pytest_report_header():
    """Says what is left out."""
    if chromium.found() is None:
        return f"{BROWSER} is deselected: no chromium found; {HINT}"
    return None


def pytest_collection_modifyitems(config, items):
    """The longest comes first, and what needs a browser is left out where there is none."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))  # or one worker ends alone
    if chromium.found() is None:
        left_out = [item for item in items if item.nodeid.startswith(BROWSER)]
        items[:] = [item for item in items if not item.nodeid.startswith(BROWSER)]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def few_programs(request):
    """Programs are forgotten before they take all mappings: a long test can take half of them."""
    yield
    if request.node.get_closest_marker("gate") or next(ENDED) % 20 == 0:
        with warnings.catch_warnings(action="ignore"):
            mappings.spare(0.35)


@pytest.fixture(autouse=True)
def closed_figures():
    """Figures that scripts leave open are closed: pyplot warns of the twenty-first."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


@pytest.fixture
def memory():
    """Bytes of a program that is compiled as users compile it, `memory(fn, *args)`."""

    def analysis(fn, *args):
        compiled = jax.jit(fn).lower(*args).compile(compiler_options=known(USUAL))
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


@pytest.fixture
def compilations():
    """A list that grows with every compilation."""
    events, watching = [], [True]

    def listen(event, _, **__):
        if watching and event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    watching.clear()
