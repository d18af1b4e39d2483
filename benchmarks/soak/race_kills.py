"""A race killed with SIGKILL at ten random instants, each time resumed: the store is the same.

    uv run benchmarks/soak/race_kills.py [SEED]

The instants are even over the time that the undisturbed race takes after its start-up, and a race
is killed once more while it is being resumed. Compared are all lines, seconds aside, and the bytes
of race.json and of all curves.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KILLS = 10
SCRIPT = """
import sys
from fnn import race
from fnn.problems import Budget
print("started", flush=True)
race.run("iris", ["adam", "lbfgs", "levenberg_marquardt", "kfac"], seeds=3, trials=3,
         budget=Budget(300, "steps"), folder=sys.argv[1])
"""


def started(folder):
    """A race in a process of its own, after its imports."""
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    return child


def killed(folder, seconds):
    """Starts a race and kills it."""
    with started(folder) as child:
        time.sleep(seconds)
        child.kill()


def finished(folder):
    """Starts a race, or goes on with it, and waits for its end; the seconds that it took."""
    with started(folder) as child:
        began = time.perf_counter()
        if child.wait():
            raise AssertionError(f"the race ended with {child.returncode}")
        return time.perf_counter() - began


def content(folder):
    """All that a store holds but seconds."""
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None), line.pop("compile_seconds", None)
    curves = {path.name: path.read_bytes() for path in sorted((folder / "curves").iterdir())}
    return lines, (folder / "race.json").read_bytes(), curves


def main(seed=0):
    """Kills and compares."""
    rng = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as parent:
        whole = Path(parent) / "whole"
        seconds = finished(whole)
        print(f"undisturbed: {seconds:.1f} s, {len(content(whole)[0])} lines")
        for n in range(KILLS):
            folder, instant = Path(parent) / str(n), rng.uniform(0, seconds)
            killed(folder, instant)
            file = folder / "runs.jsonl"
            lines = len(file.read_bytes().splitlines()) if file.exists() else 0
            killed(folder, rng.uniform(0, seconds - instant))
            finished(folder)
            assert content(folder) == content(whole)
            print(f"killed after {instant:5.1f} s with {lines:2} lines, and again: the same store")


if __name__ == "__main__":
    main(*sys.argv[1:])
