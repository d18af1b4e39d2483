"""`python -m fnn` and the command `fnn`."""

import sys


def main() -> None:
    """Runs the command line, or says what it needs."""
    try:
        from fnn.cli import app
    except ModuleNotFoundError as error:
        sys.exit(
            f"fnn: the command line needs {error.name}, which comes with the extra `race`: "
            "pip install 'fnn[race]'"
        )
    app()


if __name__ == "__main__":
    main()
