"""A race of five hundred lanes, and race after race: memory and file handles stay as they are.

    uv run benchmarks/soak/many_lanes.py [LANES] [RACES]

The lanes of two rules run in chunks of 20 (`lanes.MEMORY` is made small), and after each chunk the
memory of the process is looked at; its slope over the lanes is reported, fitted after the first
fifth, in which the allocator fills up. Then whole races of 20 lanes follow each other in folders of
their own, each of which compiles anew. What it asserts, in bytes of resident memory:

- the lanes after the first fifth add less than 20 MB altogether;
- the races after the first third add less than 10 MB each, programs and figures of a race included;
- as many file handles are open as before.
"""

import gc
import os
import sys
import tempfile
import types
from pathlib import Path

import jax
import numpy as np

from fnn import problems, race
from fnn.problems import Budget
from fnn.race import lanes

RULES = ["adam", "levenberg_marquardt"]
CHUNK = 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def handles():
    """The number of open files."""
    return len(os.listdir("/proc/self/fd"))


def slope(amounts):
    """Bytes for each unit, by least squares."""
    return float(np.polyfit(np.arange(len(amounts)), amounts, 1)[0])


def raced(folder, seeds, steps):
    """A race on iris."""
    terms = {"seeds": seeds, "trials": 2, "budget": Budget(steps, "steps")}
    return race.run("iris", RULES, folder=folder, **terms)


def chunks(folder, count, steps):
    """Resident memory after each chunk of each rule."""
    seen = {}
    original = lanes.compiled_lanes

    def watched(problem, entrant, setting, most):
        program = original(problem, entrant, setting, min(most, CHUNK))
        seen[entrant.name] = []

        def run(*args):
            found = program.turn(*args)
            seen[entrant.name].append(resident())
            return found

        return types.SimpleNamespace(width=program.width, turn=run)

    lanes.compiled_lanes = watched
    try:
        found = raced(folder, count, steps)
    finally:
        lanes.compiled_lanes = original
    assert [len(result.seeds) for result in found.results] == [count] * len(RULES)
    return seen


def main(count: int = 500, races: int = 12, steps: int = 50) -> None:
    """Races, prints, asserts.

    Args:
        count: Lanes of each rule.
        races: How many races follow.
        steps: Of each run.
    """
    problems.get("iris")
    with tempfile.TemporaryDirectory() as parent:
        raced(Path(parent) / "first", 1, 3)  # whatever is opened and loaded once
        before = handles()
        for rule, amounts in chunks(Path(parent) / "many", count, steps).items():
            settled = np.array(amounts[len(amounts) // 5 :])
            each = slope(settled) / CHUNK
            print(
                f"{rule}: {len(amounts) * CHUNK} lanes, {amounts[-1] / 1e6:.0f} MB, "
                f"slope {each / 1e3:+.2f} kB a lane"
            )
            assert each * CHUNK * len(settled) < 20e6
        amounts = []
        for number in range(races):
            raced(Path(parent) / str(number), CHUNK, steps)
            jax.clear_caches()
            gc.collect()
            amounts.append(resident())
        each = slope(amounts[races // 3 :])
        print(f"{races} races: {amounts[-1] / 1e6:.0f} MB, slope {each / 1e6:+.2f} MB a race")
        assert each < 10e6
        print(f"file handles: {before} before, {handles()} after")
        assert handles() <= before


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
