"""Tests run in float64; `float32` lanes say so by name. Without a browser, its test is left out."""

import os

import jax
import pytest

from tests.race import chromium

jax.config.update("jax_enable_x64", True)

BROWSER = "tests/race/test_browser.py"


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


HINT = "try apt-get install chromium"
