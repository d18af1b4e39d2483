"""Programs are forgotten before they take all the memory mappings that Linux grants a process.

There are 65,530 of them (`vm.max_map_count`), XLA takes about ten for each compiled program and
keeps them as long as JAX keeps the program, and at the next one the process dies without a word: in
a search over some hundred networks of different shapes, or in a notebook that is open for a week.
"""

import warnings
from pathlib import Path

import jax

__all__ = ["spare"]
__dir__ = __all__.copy

_TAKEN = Path("/proc/self/maps")
_GRANTED = Path("/proc/sys/vm/max_map_count")


def spare(share: float = 0.7) -> bool:
    """Forgets all compiled programs where they hold more than a share of the mappings.

    They are compiled again when they are called again. A warning says so. To count the mappings
    takes two microseconds for each, up to 0.1 s.

    Args:
        share: of the mappings that Linux grants, in (0, 1).

    Returns:
        True where programs were forgotten. Where there is no such limit, as on macOS, False.

    Source:
        https://docs.kernel.org/admin-guide/sysctl/vm.html, `max_map_count`.

    Example:
        >>> spare()
        False
    """
    if not _TAKEN.exists() or not _GRANTED.exists():
        return False
    with _TAKEN.open("rb") as mappings:
        taken = sum(1 for _ in mappings)
    granted = int(_GRANTED.read_text())
    if taken < share * granted:
        return False
    warnings.warn(
        f"fnn: this process took {taken} of the {granted} memory mappings that Linux grants, and "
        "XLA would abort without them; all compiled programs are forgotten (jax.clear_caches) and "
        "compiled again when needed. Try fewer different shapes in one process, or a larger "
        "vm.max_map_count",
        stacklevel=3,
    )
    jax.clear_caches()
    return True
