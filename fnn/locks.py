"""A file that one process has for itself."""

from typing import Any


def locked(file: Any) -> bool:
    """Locks an open file until this process ends; False where another process holds it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
