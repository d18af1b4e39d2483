"""`explain`: what the exact curvature of a model will cost, and why, leaf by leaf."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, PyTree

from fnn.capture.gram import choices
from fnn.capture.program import trace


class Leaf(NamedTuple):
    """How one leaf enters the Gram matrix.

    Attributes:
        path: its place in the parameters.
        shape: its shape.
        form: "factored", "explicit" or "none".
        why: the equations through which it meets data, and what decided the form.
        flops: the price of its part of the Gram matrix.
        memory: the bytes of its operands and deltas, and of its explicit Jacobian.
    """

    path: str
    shape: tuple[int, ...]
    form: str
    why: str
    flops: float
    memory: float


class Explanation(NamedTuple):
    """A line for every leaf; prints as a table.

    Attributes:
        examples: the number of examples N.
        rows: the number of rows R of each.
        leaves: one `Leaf` for every leaf, in the order of the parameters.
    """

    examples: int
    rows: int
    leaves: tuple[Leaf, ...]

    def __str__(self) -> str:
        """The table.

        Returns:
            A line for every leaf.
        """
        head = f"{self.examples} examples x {self.rows} rows"
        table = [("leaf", "shape", "form", "flops", "bytes", "why")]
        for leaf in self.leaves:
            numbers = (f"{leaf.flops:.1e}", f"{leaf.memory:.1e}")
            table.append((leaf.path, str(leaf.shape), leaf.form, *numbers, leaf.why))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join([head, *lines])


def explain(
    model: Callable[..., Array], params: PyTree, inputs: PyTree, rows: int | None = None
) -> Explanation:
    """What was factored, what fell back to its explicit Jacobian, and why.

    Args:
        model: any function `(params, x) -> outputs` of one example.
        params: arrays, or their shapes and dtypes.
        inputs: a tree of arrays, or of their shapes and dtypes, with the examples first.
        rows: the number R of rows of an example; by default as many as the model has outputs
            (a cross-entropy has one less).

    Returns:
        A value that prints as a table.

    Raises:
        ValueError: if there are no inputs. (`capture` says what else a model must be.)

    Example:
        >>> import jax
        >>> params = {"b": jax.ShapeDtypeStruct((9,), "float32"),
        ...           "w": jax.ShapeDtypeStruct((3, 9), "float32")}
        >>> inputs = jax.ShapeDtypeStruct((100, 3), "float32")
        >>> print(explain(lambda p, x: x @ p["w"] + p["b"], params, inputs, rows=1))
        100 examples x 1 rows
        leaf   shape   form      flops    bytes    why
        ['b']  (9,)    factored  1.8e+05  3.6e+03  add
        ['w']  (3, 9)  factored  2.4e+05  4.8e+03  dot_general
    """
    flat = jax.tree.leaves(inputs)
    if not flat or not all(x.shape for x in flat):
        raise ValueError(
            "explain: expected inputs that are arrays with the examples first, got shapes "
            f"{[x.shape for x in flat]}; try inputs[None] for one example"
        )
    examples = flat[0].shape[0]
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
    program, _ = trace(model, params, one, examples)
    (outputs,) = (value.aval for value in program.outputs)
    rows = rows or outputs.size
    paths = jax.tree_util.tree_leaves_with_path(params)
    shape = examples, rows
    forms = choices(program, program, shape, shape, outputs.dtype.itemsize)
    leaves = []
    for index, ((path, _), choice) in enumerate(zip(paths, forms, strict=True)):
        captured = sum(
            use.result.size * rows + (0 if use.operand is None else use.operand.size)
            for use in (program.uses[i] for i in program.uses_of(index))
        )
        form = "explicit" if choice.groups is None else "factored" if choice.groups else "none"
        shape = program.params[index].aval.shape
        jacobian = rows * math.prod(shape) if choice.groups is None else 0
        memory = 1.0 * examples * outputs.dtype.itemsize * (captured + jacobian)
        name = jax.tree_util.keystr(path)
        leaves.append(Leaf(name, shape, form, choice.why, choice.flops, memory))
    return Explanation(examples, rows, tuple(leaves))
