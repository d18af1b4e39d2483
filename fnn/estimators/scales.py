"""Scales: numbers of mean 0 and deviation 1, and back, in float64 whatever their dtype."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Scale(NamedTuple):
    """The mean and the deviation of each column."""

    mean: Float[np.ndarray, " features"]
    deviation: Float[np.ndarray, " features"]

    @classmethod
    def of(cls, table: Float[np.ndarray, "n features"], weights: np.ndarray | None) -> "Scale":
        """The scale of columns; a constant column's deviation is 1."""
        wide = table.astype(np.float64)
        mean = np.average(wide, axis=0, weights=weights)
        largest = np.abs(wide - mean).max(axis=0)
        eps = np.finfo(table.dtype if table.dtype.kind == "f" else np.float64).eps
        flat = largest <= 16 * eps * np.abs(mean)
        unit = np.where(flat, 1.0, largest)  # no square of it overflows, or vanishes
        spread = unit * np.sqrt(np.average(((wide - mean) / unit) ** 2, axis=0, weights=weights))
        return cls(mean, np.where(flat, 1.0, spread))

    def apply(self, table: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The standardized numbers."""
        return ((table - self.mean) / self.deviation).astype(dtype)

    def undo(self, table: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The numbers in the units of the columns."""
        return (table * self.deviation + self.mean).astype(dtype)
