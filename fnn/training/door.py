"""Which function was called: the name that errors and warnings of a training begin with."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

_DOOR = ContextVar("door", default="fit")


def door() -> str:
    """The function that was called, `fit` or `fits`."""
    return _DOOR.get()


@contextlib.contextmanager
def called(name: str) -> Generator[None]:
    """Gives warnings and errors within the name of the function that was called."""
    token = _DOOR.set(name)
    try:
        yield
    except (TypeError, ValueError) as error:
        if error.args and str(error.args[0]).startswith("fit: "):
            error.args = (f"{name}{error.args[0].removeprefix('fit')}", *error.args[1:])
        raise
    finally:
        _DOOR.reset(token)
