"""Calls: the jaxprs inside an equation, and which equations are nothing but the jaxpr they call."""

from collections.abc import Iterator

import jax
from jax.extend import core

from fnn.programs.equations import LAPACK

INLINED = frozenset((
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
))  # fmt: skip
"""Calls that mean their body and nothing else, under the names that JAX's versions give them.

A call with a rule of its own (custom_jvp, custom_vjp, custom_vmap) is not among them: who
differentiates or maps must honor its rule, and only a reader that evaluates may walk into it.
"""


def bodies(eqn: core.JaxprEqn) -> Iterator[core.ClosedJaxpr]:
    """The jaxprs that an equation may run, wherever they stand among its parameters."""
    return filter(None, map(_closed, jax.tree.leaves(list(eqn.params.values()))))


def is_mapped_alike(eqn: core.JaxprEqn) -> bool:
    """Whether `jax.vmap` of an equation does for each element what the equation does for one."""
    # A mapped cond runs all branches, and the NaN of one that was not chosen reaches derivatives; a
    # mapped while runs as long as the longest; LAPACK's calls side by side may deadlock on a CPU.
    return eqn.primitive.name not in LAPACK and next(bodies(eqn), None) is None


def called(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The body of a call, with a rule of its own or without; None where an equation is no call."""
    # A body that stands in a tuple has operands of its own. (A scan's has not: handle it before.)
    for body in filter(None, map(_closed, eqn.params.values())):
        if len(body.jaxpr.invars) == len(eqn.invars):
            return body
    return None


def _closed(parameter: object) -> core.ClosedJaxpr | None:
    """A parameter of an equation as a jaxpr with its constants, if it is a jaxpr."""
    if isinstance(parameter, core.Jaxpr):
        return core.ClosedJaxpr(parameter, ())
    return parameter if isinstance(parameter, core.ClosedJaxpr) else None
