"""What the operations of a system of rows cost, in flops and bytes, counted from shapes alone."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn import solvers
from fnn.capture import Captured, gram_flops, square_share
from fnn.curvature.rows import Stack, count_passes
from fnn.dtypes import widest


class _Price(NamedTuple):
    """What one part of a stack costs.

    Attributes:
        shapes: a capture of the part, or the shapes of one.
        capture: the flops of capturing it, 0 where its capture is in memory.
        multiply: the flops of A^T A v.
        jacobian: the flops of writing its rows out.
        bytes: the bytes of the operands and deltas of its capture.
    """

    shapes: Captured
    capture: float
    multiply: float
    jacobian: float
    bytes: float


def costs_of(stacks: Sequence[Stack], size: int, memory_budget: int) -> solvers.Costs:
    """The costs of a system with these rows and `size` parameters."""
    # Chunks are captured by every operation: once for A^T A; for the Gram matrix of two stacks once
    # on the left, and on the right once in every tile.
    prices = [_price(stack) for stack in stacks]
    word = max(widest(p.shapes.outputs.dtype, jnp.float32).itemsize for p in prices)
    in_memory = sum(price.bytes for price in prices)
    rows = sum(stack.source.rows for stack in stacks)
    multiply = normal = gram = row_bytes = 0.0
    for i, (stack, price) in enumerate(zip(stacks, prices, strict=True)):
        parts, n, r = stack.source.shape
        multiply += parts * price.multiply
        square = 2.0 * square_share(size) * n * r * size**2
        normal += parts * (price.capture + price.jacobian + square)
        row_bytes = max(row_bytes, min(memory_budget, 2 * word * n * r * size))
        for other, beside in zip(stacks[: i + 1], prices[: i + 1], strict=True):
            pairs = parts * other.source.shape[0]
            is_mirrored = other is stack and parts == 1
            tile = gram_flops(price.shapes, None if is_mirrored else beside.shapes, word)
            tile += beside.capture
            gram += pairs * tile + parts * price.capture
    return solvers.Costs(
        multiply=solvers.Cost(multiply, in_memory),
        gram=solvers.Cost(gram, in_memory + 2 * word * rows**2),
        normal=solvers.Cost(normal, in_memory + row_bytes + word * size**2),
    )


def _price(stack: Stack) -> _Price:
    """The price of one part of a stack."""
    shapes = stack.shapes()
    return _Price(
        shapes,
        capture=stack.capture_flops(),
        multiply=stack.multiply_flops(),
        jacobian=count_passes(shapes).jacobian,
        bytes=sum(
            a.size * a.dtype.itemsize for a in jax.tree.leaves((shapes.operands, shapes.deltas))
        ),
    )
