"""A history that grows without being copied for each look."""

import numpy as np

from fnn.training.loop import History, Records


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
