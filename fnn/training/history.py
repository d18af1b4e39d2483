"""A history, and how it grows without being copied for each look."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fnn.requirements import load
from fnn.training import glance
from fnn.training.loop import Records


class History(NamedTuple):
    """What was seen on the way.

    Attributes:
        value: the value before each step, on that step's batch. Shape (steps,).
        steps: the number of steps taken when each round ended. Shape (rounds,).
        validation: `loss` and each metric on the validation data after each round, each of shape
            (rounds,); empty without validation data.
    """

    value: Float[np.ndarray, " steps"]
    steps: Int[np.ndarray, " rounds"]
    validation: dict[str, Float[np.ndarray, " rounds"]]

    def frame(self) -> Any:
        """The history as a data frame, a row for each step; pandas must be there.

        Returns:
            A `pandas.DataFrame`: `step`, the number of steps taken, from 1; `value`, as above; and
            for each name of `validation` a column `validation_loss` and so on, NaN at the steps
            after which nothing was looked at.
        """
        steps = np.arange(1, len(self.value) + 1)
        columns: dict[str, np.ndarray] = {"step": steps, "value": self.value}
        for name, seen in self.validation.items():
            column = columns[f"validation_{name}"] = np.full(len(steps), np.nan)
            column[self.steps - 1] = seen
        return load("History.frame", "pandas").DataFrame(columns)

    def __repr__(self) -> str:
        """The history in a line, without its arrays."""
        return f"<history of {glance.course(self)}>"


class Column:
    """Numbers in room that doubles when it is full; each `values` is a view that stays as it is."""

    def __init__(self, values: np.ndarray) -> None:
        """Begins with these."""
        self.room = self.values = values

    def append(self, new: np.ndarray) -> None:
        """Adds these at the end."""
        used, total = len(self.values), len(self.values) + len(new)
        if total > len(self.room):
            self.room = np.empty(2 * total, new.dtype)
            self.room[:used] = self.values
        self.room[used:total] = new
        self.values = self.room[:total]


class Columns:
    """The columns of a history."""

    def __init__(self, history: History) -> None:
        """Begins with a history."""
        self.value, self.steps = Column(history.value), Column(history.steps)
        self.validation = {name: Column(values) for name, values in history.validation.items()}

    def append(self, records: Records, steps: int) -> History:
        """Adds the records of a chunk of so many steps; returns the history with them."""
        rounds = int(records.rounds)
        self.value.append(np.asarray(records.value)[:steps])
        self.steps.append(np.asarray(records.steps)[:rounds])
        for name, values in records.evaluated.items() if rounds else ():
            column = self.validation.setdefault(name, Column(np.zeros(0)))
            column.append(np.asarray(values)[:rounds])
        validation = {name: column.values for name, column in self.validation.items()}
        return History(self.value.values, self.steps.values, validation)
