"""Progress in words: a line that is rewritten, or lines of a log every few seconds.

On a terminal and in a notebook a line is rewritten in its place, with a bar in it; into a pipe or a
file goes a line every few seconds, as a log wants it. What listens may go away at any time, a pager
that is closed for instance: then nothing more is said, and the work goes on.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

EVERY = 5.0
"""The seconds between lines of progress where there is no terminal: a log of a work of minutes
stays short, and nobody thinks that it stands still."""

_PATIENCE = 1.0  # seconds that go by in silence unless progress was asked for
_PAUSE = 0.2  # seconds between two paintings: five a second look smooth, and cost nothing
_BAR = 20  # signs


Say = Callable[[float, str], None]
"""`say(share, what)`: the share that is done, from 0 to 1, and what goes on."""


class Place(NamedTuple):
    """Where progress is shown."""

    stream: Any
    is_rewritten: bool
    is_kept: bool  # whether the last line stays


def line(seconds: float, share: float, what: str) -> str:
    """A line of a log.

    Args:
        seconds: since the beginning.
        share: what is done, from 0 to 1.
        what: goes on.

    Returns:
        The line without its end.

    Example:
        >>> line(75.0, 0.4, "tuning adam")
        '    75 s  40%  tuning adam'
    """
    return f"{seconds:6.0f} s {share:4.0%}  {what}"


def bar(seconds: float, share: float, what: str) -> str:
    """A line with a bar, to be rewritten.

    Args:
        seconds: since the beginning.
        share: what is done, from 0 to 1.
        what: goes on.

    Returns:
        The line without its end, in ASCII, which every terminal shows.

    Example:
        >>> bar(75.0, 0.25, "value 0.1")
        ' 25% [#####---------------] 75 s, 225 s left  value 0.1'
    """
    full = round(_BAR * share)
    left = f", {seconds / share - seconds:.0f} s left" if share > 0 else ""
    return f"{share:4.0%} [{'#' * full}{'-' * (_BAR - full)}] {seconds:.0f} s{left}  {what}"


def surroundings() -> Place | None:
    """Where progress goes: a notebook's output, or standard error; None where there is none.

    Returns:
        The place.

    Example:
        >>> place = surroundings()
    """
    if _is_notebook():
        return Place(sys.stdout, is_rewritten=True, is_kept=True)
    stream = sys.stderr
    is_terminal = getattr(stream, "isatty", lambda: False)  # what stands for a file may lack it
    try:
        return None if stream is None else Place(stream, is_terminal(), is_kept=False)
    except ValueError:  # it is closed
        return None


@contextlib.contextmanager
def shown(progress: bool | None, what: str) -> Generator[Say]:
    """Shows how far something has come, while it goes on.

    Args:
        progress: whether to show it. None shows what takes longer than a second, on a terminal and
            in a notebook; a pipe or a file stays as it is.
        what: goes on, in a word.

    Yields:
        `say(share, more)`, to be called as often as one likes.

    Raises:
        TypeError: if `progress` is no boolean and not None.

    Example:
        >>> with shown(False, "fit") as say:
        ...     say(0.5, "value 0.1")
    """
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(
            f"{what}: expected progress to be True, False or None, got {progress!r}; try None, "
            "which shows what takes long on a terminal or in a notebook"
        )
    place = surroundings() if progress is not False else None
    if place is None or not (progress or place.is_rewritten):
        yield lambda *_: None
        return
    painter = _Painter(place, what, 0.0 if progress else _PATIENCE)
    try:
        yield painter.say
    finally:
        painter.close()


class _Painter:
    """Paints what it is told when it is time, until nobody listens."""

    def __init__(self, place: Place, what: str, patience: float) -> None:
        self.place, self.what = place, what
        self.pause = _PAUSE if place.is_rewritten else EVERY
        self.began = time.monotonic()
        self.next = self.began + (patience if place.is_rewritten else EVERY)
        self.told: tuple[float, str] | None = None
        self.written = 0  # signs in the line that is rewritten
        self.is_silent = patience > 0  # nothing was painted yet, and nothing needs to be

    def say(self, share: float, more: str) -> None:
        """Takes note, and paints if it is time."""
        self.told = share, more
        if (now := time.monotonic()) >= self.next:
            self.next = now + self.pause
            self.paint()

    def paint(self) -> None:
        """Paints what was told last."""
        if self.told is None:
            return
        share, more = self.told
        self.told, self.is_silent = None, False
        text = f"{self.what}  {more}" if self.place.is_rewritten else f"{self.what}: {more}"
        seconds = time.monotonic() - self.began
        if not self.place.is_rewritten:
            self.write(f"{line(seconds, share, text)}\n")
            return
        text = bar(seconds, share, text)[: shutil.get_terminal_size().columns - 1]
        self.write(f"\r{text.ljust(self.written)}")
        self.written = len(text)

    def close(self) -> None:
        """Paints the end, and leaves the line or clears it."""
        if not self.is_silent:
            self.paint()
        if self.written:
            self.write("\n" if self.place.is_kept else f"\r{' ' * self.written}\r")

    def write(self, text: str) -> None:
        """Writes, and falls silent where that fails."""
        try:
            self.place.stream.write(text)
            self.place.stream.flush()
        except (OSError, ValueError):  # a pipe that is closed, a full disk, signs it does not know
            self.next = float("inf")


def _is_notebook() -> bool:
    """Whether this runs in a kernel of IPython, whose output a browser shows."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
