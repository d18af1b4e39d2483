"""The playground: pictures a second, how soon a click is answered, memory, and the start page.

    uv run benchmarks/playing.py [--minutes M] [--skip-spiral]

A headless Chromium looks at the start page, which trains 2-8-8-1 on two spirals by adam and by
levenberg_marquardt. Pictures are counted in the page, as they come; a click is timed there, from
the click to the first change of what stands beside the buttons. Memory is that of the server, and
the heap of the page after a collection. Then, without a page, the steps and seconds until each rule
has all training points in their class: adam at five rates, of which the start page has the fastest.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from fnn.play import Settings, match
from fnn.play import task as tasks

ROOT = Path(__file__).parents[1]


def _chromium() -> Any:
    """The tests' browser."""
    path = ROOT / "tests" / "race" / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chromium = _chromium()

COUNT = """new Promise((done) => { let seen = 0;
  const observer = new MutationObserver(() => seen++);
  observer.observe(document.querySelector("[data-panel=first-regions]"), {childList: true});
  setTimeout(() => { observer.disconnect(); done(seen); }, %d); })"""
CLICK = """new Promise((done) => { const began = performance.now();
  const state = document.querySelector(".state"), was = state.textContent.split(",")[0];
  const observer = new MutationObserver(() => { if (state.textContent.split(",")[0] !== was) {
    observer.disconnect(); done(performance.now() - began); } });
  observer.observe(state, {childList: true, subtree: true, characterData: true});
  document.querySelector("[data-button=run]").click(); })"""
RATES = 0.003, 0.01, 0.02, 0.03, 0.05


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--skip-spiral", action="store_true")
    asked = parser.parse_args()
    with served() as (address, pid), chromium.Browser() as tab:
        watched(tab, address, pid, asked.minutes)
    if not asked.skip_spiral:
        for seed in range(4):
            separated(seed)


@contextlib.contextmanager
def served() -> Generator[tuple[str, int]]:
    """The address and the process of a playground."""
    command = [sys.executable, "-u", "-m", "fnn", "play", "--port", "0", "--no-open"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"is at (http://\S+) until", line):
                break
        else:
            raise RuntimeError("playing: expected a page, got none; try uv run fnn play")
        try:
            yield found[1], process.pid
        finally:
            process.terminate()


def watched(tab: Any, address: str, pid: int, minutes: float) -> None:
    """Looks at the start page for some minutes."""
    began = time.monotonic()
    tab.show(1280, 800)
    tab.call("Page.navigate", url=address)
    tab.wait("document.querySelectorAll('.panel svg').length === 10")
    print(f"drawn after {time.monotonic() - began:.1f} s", flush=True)
    seen = "document.querySelector('[data-panel=second-regions] svg').getAttribute('aria-label')"
    tab.wait(f"/loss 0.00/.test({seen})")
    print(f"separated after {time.monotonic() - began:.1f} s: {tab.run(seen)}")
    print(f"beside: {tab.run(seen.replace('second', 'first'))}")
    print(f"frames a second: {tab.run(COUNT % 10_000) / 10:.1f}", flush=True)
    clicks = []
    for _ in range(20):
        clicks.append(tab.run(CLICK))
        time.sleep(0.5)
    clicks = sorted(clicks)
    print(f"click answered after {clicks[10]:.0f} ms, at most {clicks[-1]:.0f} ms", flush=True)
    for minute in range(int(minutes) + 1):
        tab.call("HeapProfiler.collectGarbage")
        heap = tab.call("Runtime.getHeapUsage")["usedSize"] / 2**20
        frames = tab.run(COUNT % 5000) / 5
        state = tab.run("document.querySelector('.state').textContent")
        print(f"minute {minute}: server {resident(pid):.0f} MiB, page {heap:.0f} MiB, "
              f"{frames:.1f} frames a second; {state}", flush=True)  # fmt: skip
        if minute < int(minutes):
            time.sleep(max(0.0, began + 60 * (minute + 1) - time.monotonic()))


def resident(pid: int) -> float:
    """The memory of a process in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def separated(seed: int) -> None:
    """Steps and seconds until all training points are in their class."""
    settings = Settings(seed=seed)
    racing = [(f"adam {rate}", settings._replace(first_rate=rate), 0, 100) for rate in RATES]
    for name, chosen, place, stride in [("levenberg_marquardt", settings, 1, 5), *racing]:
        one = match.begin(chosen)
        other = one.runners[1 - place]._replace(trouble="held")
        runners = (one.runners[0], other) if place == 0 else (other, one.runners[1])
        one = one._replace(runners=runners)
        inputs, targets = one.task.train
        while True:
            one = match.forward(one, stride)
            row = one.runners[place].rows[-1]
            outputs = outputs_of(one, place, inputs)
            right = float(jnp.mean((outputs > 0) == (targets > 0.5)))
            if right == 1 or row.step >= 100 * stride * (3 if place == 0 else 1):
                break
        test = float(one.runners[place].look.right)
        done = "separated" if right == 1 else f"not separated ({right:.1%})"
        print(f"seed {seed}, {name}: {done} after {row.step} steps, {row.seconds * 1e3:.0f} ms; "
              f"test {test:.0%} right", flush=True)  # fmt: skip


def outputs_of(one: match.Match, place: int, inputs: jnp.ndarray) -> jnp.ndarray:
    """The outputs of a rule's network."""
    objective = tasks.objective_of(tasks.network_of(one.settings))
    return objective.outputs(one.runners[place].carry.params, inputs)


if __name__ == "__main__":
    main()
