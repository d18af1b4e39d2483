"""What a model is made of, as a table."""

import math
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from fnn import flops
from fnn.layers.layer import Layer, require_layers


class Row(NamedTuple):
    """One layer of a model, with everything inside it.

    Attributes:
        name: of the layer.
        depth: in how many layers of the table it lies.
        outputs: their shapes and dtypes for one example. (Inside `each`: for one position.)
        parameters: how many numbers its parameters are.
        flops: of one example in inference, as `fnn.flops` counts them. (Inside `each`: of all
            positions together.)
    """

    name: str
    depth: int
    outputs: PyTree
    parameters: int
    flops: float


class Summary(NamedTuple):
    """The layers of a model from its inputs to its outputs; `str` makes a table of it.

    Attributes:
        rows: the parts of the model, every combinator before its own parts.
        total: the model.
    """

    rows: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        """The table, numbers to the right.

        Returns:
            Lines of text.
        """
        header = ("layer", "outputs", "parameters", "flops")
        cells = [_cells(row) for row in (*self.rows, self.total)]
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [_line(header, widths), rule, *(_line(row, widths) for row in cells)]
        return "\n".join([*lines[:-1], rule, lines[-1]])


def summary(model: Layer, x: Any) -> Summary:
    """The layers of a model with shapes, numbers of parameters and flops; print it.

    Nothing is run. Inside see combinators and layers with a `through`; all others are one row.

    Args:
        model: the layer.
        x: one example, as arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        The rows and the total; `print(summary(model, x))` shows a table.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> model = layers.serial(layers.dense(32), layers.elementwise(jax.nn.relu))
        >>> print(layers.summary(model, jax.ShapeDtypeStruct((64,), "float32")))
        layer              outputs  parameters  flops
        ---------------------------------------------
        dense(32)          (32,)         2,080  4,128
        elementwise(relu)  (32,)             0     32
        ---------------------------------------------
        serial             (32,)         2,080  4,160
    """
    require_layers("summary", model)
    rows: list[Row] = []

    def visit(layer: Layer, params: PyTree, inputs: PyTree, depth: int) -> tuple[PyTree, PyTree]:
        place = len(rows)
        batched = jax.vmap(layer.apply, (None, 0))
        outputs = batched(params, inputs)
        if layer.through is not None:

            def deeper(part: Layer, params: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
                return visit(part, params, inputs, depth + 1)

            layer.through(deeper, params, inputs)
        row = Row(
            name=layer.name,
            depth=depth,
            outputs=jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), outputs),
            parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
            flops=flops.count(batched, params, inputs),
        )
        rows.insert(place, row)
        return params, outputs

    def batch_of_one(x: Any) -> None:
        params = model.init(jax.random.key(0), x)
        visit(model, params, jax.tree.map(lambda a: a[None], x), depth=0)

    jax.eval_shape(batch_of_one, x)
    total, *parts = rows
    return Summary(tuple(row._replace(depth=row.depth - 1) for row in parts or rows), total)


def _cells(row: Row) -> tuple[str, str, str, str]:
    shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(row.outputs))
    return "  " * row.depth + row.name, shapes, f"{row.parameters:,}", f"{row.flops:,.0f}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    words, numbers = (
        zip(cells[:2], widths[:2], strict=True),
        zip(cells[2:], widths[2:], strict=True),
    )
    padded = [f"{cell:<{width}}" for cell, width in words]
    return "  ".join(padded + [f"{cell:>{width}}" for cell, width in numbers])
