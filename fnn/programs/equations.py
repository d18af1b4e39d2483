"""What the readers of jaxprs share: one equation as a function, and the arity of a scan."""

from collections.abc import Callable
from typing import Any

from jax.extend import core
from jaxtyping import Array


def evaluation(eqn: core.JaxprEqn) -> Callable[..., list[Array]]:
    """One equation as a function of its operands, by JAX's own rule for it.

    Args:
        eqn: any equation.

    Returns:
        `evaluate(*operands) -> results`, one operand for each of `eqn.invars`.
    """
    places = {}
    for place, atom in enumerate(eqn.invars):
        if not isinstance(atom, core.Literal):
            places.setdefault(atom, place)
    origin = core.DebugInfo("equation", eqn.primitive.name, None, None)
    jaxpr = core.Jaxpr((), list(places), eqn.outvars, [eqn], eqn.effects, origin)
    call = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))
    return lambda *operands: call(*(operands[place] for place in places.values()))


def scan_arity(eqn: core.JaxprEqn) -> tuple[int, int]:
    """How many constants and how many carried values the body of a scan takes, in this order.

    Told by the axis that everything else gains outside, since the names in an equation's
    parameters are another in every version of JAX.

    Args:
        eqn: a scan.

    Returns:
        Both numbers.
    """
    body = eqn.params["jaxpr"].jaxpr
    same = [_shape(a) == _shape(b) for a, b in zip(eqn.outvars, body.outvars, strict=True)]
    carried = sum(same)
    given = [_shape(a) == _shape(b) for a, b in zip(eqn.invars, body.invars, strict=True)]
    return sum(given) - carried, carried


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())
