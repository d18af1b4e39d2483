"""A step of back-propagation as a table."""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from fnn.backprop.differences import entries
from fnn.backprop.serial import Trace

UNITS = "layer", "unit", "output", "dE/d output"
PARAMETERS = "parameter", "value", "gradient", "after the step"


class Table(NamedTuple):
    """One step as on a blackboard: `str` makes text of it, and a notebook shows HTML.

    Attributes:
        value: the loss E, as text.
        units: rows of layer, unit, output and delta, the inputs first.
        parameters: rows of parameter, value, gradient and value after the step.
    """

    value: str
    units: tuple[tuple[str, ...], ...]
    parameters: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        """Two tables under the loss, as text."""
        blocks = _text(UNITS, self.units), _text(PARAMETERS, self.parameters)
        return "\n\n".join([f"E = {self.value}", *blocks])

    def _repr_html_(self) -> str:
        """Two tables under the loss, as HTML."""
        blocks = _html(UNITS, self.units) + _html(PARAMETERS, self.parameters)
        return f"<p>E = {self.value}</p>{blocks}"


def table(traced: Trace, learning_rate: float, digits: int = 4) -> Table:
    """Every number of one step w - learning_rate dE/dw; print it.

    Args:
        traced: a result of `trace` for one example.
        learning_rate: the learning rate of the step.
        digits: the number of digits after the decimal point, at least 0.

    Returns:
        The table; `print(table(traced, 0.5))` shows it.

    Raises:
        ValueError: if `digits` is negative, or the trace is of a batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import backprop, layers, losses
        >>> model = layers.serial(layers.dense(1, bias=None), layers.elementwise(jnp.tanh))
        >>> params, x, t = ({"weight": jnp.zeros((1, 1))}, ()), jnp.array([3.0]), jnp.ones(1)
        >>> traced = backprop.trace(model, losses.half_squared_error, params, x, t)
        >>> print(backprop.table(traced, 0.1, digits=2))
        E = 0.50
        <BLANKLINE>
        layer              unit  output  dE/d output
        --------------------------------------------
        inputs                0    3.00         0.00
        dense(1)              0    0.00        -1.00
        elementwise(tanh)     0    0.00        -1.00
        <BLANKLINE>
        parameter            value  gradient  after the step
        ----------------------------------------------------
        [0]['weight'][0, 0]   0.00     -3.00            0.30
    """
    if digits < 0:
        raise ValueError(f"table: expected digits >= 0, got {digits}; try 4")
    if np.ndim(traced.value):
        raise ValueError(
            f"table: expected the trace of one example, got losses of shape "
            f"{np.shape(traced.value)}; try jax.tree.map(lambda a: a[0], traced)"
        )

    def number(value: Any) -> str:
        return f"{float(value):.{digits}f}".replace("-" + f"{0:.{digits}f}", f"{0:.{digits}f}")

    layers = [
        ("inputs", traced.parts[0].inputs if traced.parts else (), traced.delta),
        *((part.name, part.outputs, part.delta) for part in traced.parts),
    ]
    units = tuple(
        (name if i == 0 else "", unit.strip("[]"), number(output), number(delta))
        for name, outputs, deltas in layers
        for i, (unit, output, delta) in enumerate(
            zip(entries(outputs), _numbers(outputs), _numbers(deltas), strict=True)
        )
    )
    params = tuple(part.params for part in traced.parts)
    grad = tuple(part.grad for part in traced.parts)
    parameters = tuple(
        (name, number(w), number(g), number(w - learning_rate * g))
        for name, w, g in zip(entries(params), _numbers(params), _numbers(grad), strict=True)
    )
    return Table(number(np.asarray(traced.value)), units, parameters)


def _numbers(tree: PyTree) -> np.ndarray:
    """All numbers of a tree in one row."""
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def _text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as text, its first column aligned left, the others right."""
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first, *others = [
        "  ".join(
            f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([first, "-" * len(first), *others])


def _html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{row(header, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
