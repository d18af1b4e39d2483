"""A system's dense matrix, formed once: for the step, and for what its eigenvalues tell."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fnn.solvers.automatic import choose
from fnn.solvers.dense import dual, primal
from fnn.solvers.system import System, needs


class Formed(NamedTuple):
    """The smaller of two matrices that have the same eigenvalues but for zeros.

    Attributes:
        matrix: C among the parameters, or A A^T among the rows.
        among_rows: Whether it is A A^T.
        system: The same system, which gives this matrix to the solver that asks for it.
    """

    matrix: Float[Array, "n n"]
    among_rows: bool
    system: System


def formed(system: System, memory_budget: float = 2**30) -> Formed:
    """The matrix that the automatic choice would factor.

    Args:
        system: One with `costs`, and without a penalty.
        memory_budget: Bytes, > 0.

    Returns:
        The matrix, and a system for dampings and penalties that are one number for all leaves.

    Raises:
        ValueError: If no dense matrix fits in memory, or the system has a penalty.

    >>> from fnn.solvers import from_rows
    >>> matrix, among_rows, _ = formed(from_rows(jnp.ones((2, 50)), jnp.zeros(50)))
    >>> matrix.tolist(), among_rows
    ([[50.0, 50.0], [50.0, 50.0]], True)
    """
    if system.penalty is not None:
        raise ValueError(
            "solvers.formed: expected a system without a penalty, whose matrix depends on it, got "
            "one; try to add the penalty to the system that returns"
        )
    solver, reason = choose(system, memory_budget)
    if solver == primal():
        (normal,) = needs(system, "formed", "normal")
        matrix = normal()
        return Formed(matrix, False, system._replace(normal=lambda: matrix))
    if solver == dual():
        (gram,) = needs(system, "formed", "gram")
        matrix = gram(jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), system.like))
        return Formed(
            matrix, True, system._replace(gram=lambda inverse: jax.tree.leaves(inverse)[0] * matrix)
        )
    raise ValueError(
        f"solvers.formed: expected a dense matrix to fit in memory_budget, got {reason} Try a "
        "larger memory_budget, or fewer examples"
    )
