"""Draws the pictures of the course anew: `uv run examples/site/pictures.py NAME ...`.

A script draws into `examples/drawn`, which git ignores. This runs the scripts of some names and
copies what they drew to `examples/pictures`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1]


def main(*names: str) -> None:
    """Runs scripts, and keeps their pictures."""
    known = sorted(path.stem for path in (EXAMPLES / "pictures").glob("*.png"))
    if not names or set(names) - set(known):
        raise SystemExit(f"pictures: expected names of {known}, got {list(names)}; try saddle")
    for name in names:
        subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], check=True)
        shutil.copy(EXAMPLES / "drawn" / f"{name}.png", EXAMPLES / "pictures")


if __name__ == "__main__":
    main(*sys.argv[1:])
