"""The automatic choice, by counted cost, with its reason."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import PyTree

from fnn.solvers.conjugate_gradients import conjugate_gradients
from fnn.solvers.dense import dual, kinds_of, primal
from fnn.solvers.system import Cost, RightHandSide, Solution, Solver, System, entries

_MATRICES = 6
"""Float64 matrices alive at once in the ladder: the matrix, its scaled copy, the factor; the
eigenvectors and LAPACK's two of workspace."""


class Choice(NamedTuple):
    """A solver and why it was chosen.

    Attributes:
        solver: The solver.
        reason: One sentence with the counted prices.
    """

    solver: Solver
    reason: str


def choose(system: System, memory_budget: float = 2**30) -> Choice:
    """The solver with the fewest counted flops among the exact ones that fit in memory.

    Conjugate gradients, which are exact only in the limit, are for systems that no dense solver can
    hold; they are never chosen for speed.

    Args:
        system: A system with `costs`.
        memory_budget: Bytes, > 0.

    Returns:
        The solver and the reason.

    Raises:
        TypeError: If the system has no costs.

    >>> from fnn.solvers import from_rows
    >>> import jax.numpy as jnp
    >>> print(choose(from_rows(jnp.ones((2, 50)), jnp.zeros(50))).reason)
    dual: 4e+02 flops, 0.0 MiB; primal: 5.2e+04 flops, 0.1 MiB; one iteration of conjugate
    gradients: 4e+02 flops. The cheapest exact solver that fits in 1024 MiB: dual.
    """
    if system.costs is None:
        raise TypeError(
            "solvers.choose: expected a system with counted costs, got costs=None; "
            "try naming the solver: solvers.dual(), primal() or conjugate_gradients()"
        )
    multiply, gram, normal = system.costs
    exact = {}
    if gram is not None:
        kinds = max(kinds_of(system)) + 1
        exact[dual()] = _price(gram._replace(bytes=kinds * gram.bytes), system.rows)
    if normal is not None:
        exact[primal()] = _price(normal, entries(system.like))
    fitting = {s: price.flops for s, price in exact.items() if price.bytes <= memory_budget}
    solver = min(fitting, key=lambda s: fitting[s]) if fitting else conjugate_gradients()
    listed = "; ".join(
        f"{s.name}: {price.flops:.2g} flops, {price.bytes / 2**20:.1f} MiB"
        for s, price in exact.items()
    )
    budget = f"fits in {memory_budget / 2**20:.0f} MiB"
    if fitting:
        verdict = f"The cheapest exact solver that {budget}"
    else:
        verdict = f"No exact solver {budget}" if exact else "There is nothing to factor"
    products = f"one iteration of conjugate gradients: {multiply.flops:.2g} flops"
    return Choice(
        solver, "; ".join(filter(None, [listed, products])) + f". {verdict}: {solver.name}."
    )


def _price(form: Cost, size: int) -> Cost:
    """The price of forming a matrix of this size and factoring it once."""
    return Cost(form.flops + size**3 / 3, form.bytes + 8 * _MATRICES * size**2)


@functools.cache
def automatic(memory_budget: float = 2**30) -> Solver:
    """The solver that `choose` chooses for the system at hand, from shapes, while tracing.

    Args:
        memory_budget: Bytes, > 0.

    Returns:
        The solver.

    Raises:
        ValueError: If the budget is not positive.

    >>> automatic().name
    'automatic'
    """
    if not memory_budget > 0:
        raise ValueError(
            f"solvers.automatic: expected memory_budget > 0 bytes, got {memory_budget}; try 2**30"
        )

    def prepare(system: System) -> Callable[[RightHandSide, PyTree], Solution]:
        return choose(system, memory_budget).solver.prepare(system)

    return Solver("automatic", prepare)
