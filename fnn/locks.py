"""A file that one process has for itself."""

from typing import Any


def locked(file: Any) -> bool:
    """Locks an open file for this process; the system opens it when that ends, in any way.

    Args:
        file: open for writing.

    Returns:
        Whether it is locked now; False where another one holds it. (True where there is no such
        lock, as on Windows.)
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
