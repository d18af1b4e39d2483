"""What the readers of jaxprs share: one equation as a function, LAPACK's, the arity of a scan."""

from collections.abc import Callable
from typing import Any

from jax.extend import core
from jaxtyping import Array

LAPACK = frozenset((
    "cholesky", "triangular_solve", "lu", "qr", "geqrf", "geqp3", "householder_product", "eigh",
    "svd", "eig", "schur", "hessenberg", "tridiagonal",
))  # fmt: skip
"""The equations that LAPACK computes on a CPU."""


def evaluation(eqn: core.JaxprEqn) -> Callable[..., list[Array]]:
    """`evaluate(*operands) -> results` of one equation, an operand for each of its `invars`."""
    places = {}
    for place, atom in enumerate(eqn.invars):
        if not isinstance(atom, core.Literal):
            places.setdefault(atom, place)
    origin = core.DebugInfo("equation", eqn.primitive.name, None, None)
    jaxpr = core.Jaxpr((), list(places), eqn.outvars, [eqn], eqn.effects, origin)
    call = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))
    return lambda *operands: call(*(operands[place] for place in places.values()))


def scan_arity(eqn: core.JaxprEqn) -> tuple[int, int]:
    """How many constants and how many carried values the body of a scan takes, in this order."""
    # They have the same shapes inside and outside, where all else has one axis more. (What the
    # equation's parameters say about it has other names in every version of JAX.)
    body = eqn.params["jaxpr"].jaxpr
    results = zip(eqn.outvars, body.outvars, strict=True)
    inputs = zip(eqn.invars, body.invars, strict=True)
    carried = sum(_shape(outside) == _shape(inside) for outside, inside in results)
    whole = sum(_shape(outside) == _shape(inside) for outside, inside in inputs)
    return whole - carried, carried


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())
