"""`python -m fnn` and the command `fnn`."""

import os
import sys

from fnn.requirements import require


def main() -> None:
    """Runs the command line, or says what it needs."""
    # Our figures need no backend, and matplotlib stops at one that is not installed: notebooks
    # export theirs to every command.
    os.environ["MPLBACKEND"] = "agg"
    try:
        require("fnn", "typer", "rich", "scipy", "matplotlib", "sklearn")
    except ImportError as error:
        sys.exit(str(error))
    from fnn.cli import app

    app()


if __name__ == "__main__":
    main()
