"""A snapshot: all that a run needs to go on."""

from typing import Any, NamedTuple

import numpy as np

from fnn.training.history import History
from fnn.training.loop import Progress


class Position(NamedTuple):
    """Where training is in a stream of batches.

    Attributes:
        passes: how often the stream was gone through to its end.
        batches: how many batches of the next pass were trained on.
        examples: in the first batch of that pass; 0 before it.
        value: summed over the steps since the last look.
        steps: since the last look.
        state: of the iterator, where it has `get_state` and `set_state`, as Grain's have.
    """

    passes: int = 0
    batches: int = 0
    examples: int = 0
    value: float = 0.0
    steps: int = 0
    state: Any = None


class Snapshot(NamedTuple):
    """All that a run needs to go on, and the fraction of it that was done."""

    progress: Progress
    history: History
    position: Position
    fraction: float

    @property
    def steps(self) -> int:
        """The number of steps that were taken."""
        return int(self.progress.step)

    @property
    def is_round_end(self) -> bool:
        """Whether these very parameters were looked at."""
        rounds = self.history.steps
        return len(rounds) > 0 and int(rounds[-1]) == self.steps

    @property
    def round_values(self) -> tuple[float, float]:
        """The mean values over the first and over the last whole round."""
        values, ends = self.history.value, self.history.steps
        if not len(ends):
            return float("nan"), float("nan")
        last = ends[-2] if len(ends) > 1 else 0
        return float(np.mean(values[: ends[0]])), float(np.mean(values[last : ends[-1]]))
