"""One visitor's training: a thread of its own that takes orders and leaves pictures."""

import queue
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from fnn.play import match as matches
from fnn.play.marks import svg
from fnn.play.match import Match
from fnn.play.networks import summary
from fnn.play.panels import panels
from fnn.play.settings import Settings

FRAMES = 15
"""The most pictures in a second: more are not seen, and cost the rules their cores."""

SHARE = 0.25
"""The part of the time that spectra may take: of larger networks they come less often."""


class Frame(NamedTuple):
    """What the page shows.

    Attributes:
        number: counts the pictures.
        pictures: panels as SVG, by name.
        running: whether both rules learn.
        preparing: whether programs are being compiled.
        summaries: where the rules stand, in a line each.
        troubles: sentences about what went wrong, if anything.
        steps: of both rules.
    """

    number: int = 0
    pictures: Mapping[str, str] = {}
    running: bool = False
    preparing: bool = True
    summaries: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    steps: tuple[int, ...] = (0, 0)


class Session:
    """A match in a thread.

    The thread waits for orders; while both rules learn it goes on as soon as its last picture was
    taken. Where nobody takes pictures, nothing is learned.
    """

    def __init__(self, settings: Settings, run: bool = False):
        """Begins at the start of a match."""
        self.frame = Frame()
        self._orders: queue.SimpleQueue[tuple[str, Settings, int]] = queue.SimpleQueue()
        self._resets = 0
        self._taken = threading.Event()
        self._settings = settings
        self.order("reset", settings)
        if run:
            self.order("run")
        self.thread = threading.Thread(target=self._live, daemon=True, name="fnn-play")
        self.thread.start()

    def order(self, name: str, settings: Settings | None = None) -> None:
        """Asks for `run`, `pause`, `step`, `reset`, `pace` or `close`."""
        self._settings = settings or self._settings
        self._resets += name == "reset"
        self._orders.put((name, self._settings, self._resets))

    def take(self) -> None:
        """The last frame was taken; the thread may go on to the next."""
        self._taken.set()

    def _live(self) -> None:
        """Takes orders and goes on, until it is closed."""
        match, running, curved = None, False, _Curved()
        while True:
            began = time.perf_counter()
            name, settings, number = self._next(running)
            if name == "close":
                return
            if name == "reset" and number < self._resets:
                continue  # who types makes several, and each may have to be compiled
            running = name == "run" or (running and name not in ("pause", "step", "reset"))
            try:
                match = self._obeyed(match, name, settings, running)
                if match is None:
                    continue
                match = curved.of(match, always=not running)
                running = running and not all(runner.trouble for runner in match.runners)
                self._show(match, running)
            except Exception as error:  # of whatever kind: the page says it, and reset works
                match, running = None, False
                self._say(f"{error} (nothing is learned until reset)")
            if running:
                time.sleep(max(0.0, 1 / FRAMES - (time.perf_counter() - began)))

    def _next(self, running: bool) -> tuple[str, Settings, int]:
        """The next order; `onward` where there is none and the last picture was taken."""
        while running:
            try:
                return self._orders.get(timeout=0.0 if self._taken.is_set() else 0.005)
            except queue.Empty:
                if self._taken.is_set():
                    return "onward", self._settings, self._resets
        return self._orders.get()

    def _obeyed(
        self, match: Match | None, name: str, settings: Settings, running: bool
    ) -> Match | None:
        """The match after an order."""
        if name == "reset":
            self.frame = self.frame._replace(
                number=self.frame.number + 1, preparing=True, running=False, troubles=()
            )
            return matches.caught_up(matches.begin(settings))
        if match is None:
            return None
        match = match._replace(settings=settings)
        if name == "step":
            return matches.forward(match, 1)
        return matches.onward(match) if name == "onward" and running else match

    def _show(self, match: Match, running: bool) -> None:
        """Leaves a frame of the match."""
        drawn = {name: svg(panel) for name, panel in panels(match).items()}
        self._taken.clear()
        self.frame = Frame(
            self.frame.number + 1,
            drawn,
            running,
            False,
            tuple(summary(match, runner) for runner in match.runners),
            tuple(runner.trouble for runner in match.runners if runner.trouble),
            tuple(runner.rows[-1].step for runner in match.runners),
        )

    def _say(self, trouble: str) -> None:
        """Leaves a frame that says what went wrong."""
        self._taken.clear()
        self.frame = self.frame._replace(
            number=self.frame.number + 1, running=False, preparing=False, troubles=(trouble,)
        )


class _Curved:
    """Spectra and slices, no more often than their price allows."""

    def __init__(self):
        self._price, self._ended = 0.0, 0.0

    def of(self, match: Match, always: bool) -> Match:
        """The match with both, or as it came."""
        began = time.perf_counter()
        if not always and began - self._ended < self._price * (1 / SHARE - 1):
            return match
        match = matches.with_slice(matches.with_curvature(match))
        self._ended = time.perf_counter()
        self._price = self._ended - began
        return match
