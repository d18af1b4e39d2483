"""Draws the pictures of the course anew: `uv run examples/site/pictures.py [NAME ...]`.

A script draws into `examples/drawn`, which git ignores. This runs the scripts of some names, or all
of them, one after the other, copies what they drew to `examples/pictures`, and prints the seconds.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).parents[1]


def main(*names: str) -> None:
    """Runs scripts, and keeps their pictures."""
    known = sorted(path.stem for path in (EXAMPLES / "pictures").glob("*.png"))
    if unknown := set(names) - set(known):
        raise SystemExit(f"pictures: expected names of {known}, got {sorted(unknown)}; try saddle")
    first = time.perf_counter()
    for name in names or known:
        began = time.perf_counter()
        subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], check=True)
        shutil.copy(EXAMPLES / "drawn" / f"{name}.png", EXAMPLES / "pictures")
        print(f"-- {name}: {time.perf_counter() - began:.0f} s", flush=True)
    print(f"-- all of it: {time.perf_counter() - first:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
