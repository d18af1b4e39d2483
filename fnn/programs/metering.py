"""Floating-point operations of what was really done.

How many conjugate gradients a step took, or whether a factorization failed and an
eigendecomposition came after it, is known only when it has run. A metered function counts while it
runs: its jaxpr is evaluated equation by equation as it stands, and every loop and every branch that
may cost more or less carries a counter. The rest is counted beforehand, and costs nothing. A lane
of a `vmap` counts the trips that it needed itself, not those it waited for others, but the branch
of a `cond` whose condition the lanes share.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.extend import core
from jaxtyping import Array

from fnn.programs import calls, equations
from fnn.programs.counting import Tally, living, narrowed, walk


def metered(fn: Callable[..., Any], scope: str = "") -> Callable[..., tuple[Any, Tally]]:
    """A function that also tells what it cost.

    Equations that no result needs are left out, as the compiler leaves them out. The function
    returned may be compiled and mapped; it is not for differentiating.

    Args:
        fn: a function of pytrees of arrays, without keyword arguments.
        scope: the name of a `jax.named_scope` whose part is counted apart, see `count_within`.

    Returns:
        `(*args) -> (fn(*args), tally)`, the tally in float32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import flops
        >>> def halve(x):
        ...     return jax.lax.while_loop(lambda x: x > 1, lambda x: 0.5 * x, x)
        >>> meter = jax.jit(flops.metered(halve))
        >>> [float(meter(jnp.array(x))[1].flops) for x in (0.5, 8.0)]  # a product, a comparison
        [1.0, 7.0]
    """

    @functools.wraps(fn)
    def run(*args: Any) -> tuple[Any, Tally]:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        operands = [jnp.asarray(leaf) for leaf in jax.tree.leaves(args)]
        with jax.enable_x64(True):  # every dtype is written in the jaxpr, and some are float64
            everything = [True] * len(closed.jaxpr.outvars)
            results, tally = _run(closed, operands, everything, scope)
            flops, within = (jnp.asarray(part, jnp.float32) for part in tally)
        return jax.tree.unflatten(jax.tree.structure(shape), results), Tally(flops, within)

    return run


def _run(
    closed: core.ClosedJaxpr, operands: Sequence[Any], live: Sequence[bool], scope: str
) -> tuple[list[Any], Any]:
    """The live results of a jaxpr, in order, and its tally: NumPy's array where it cannot vary."""
    jaxpr, total = closed.jaxpr, np.zeros(2)
    env = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    def operand(atom: Any) -> Any:  # what only dead results need is not there
        aval: Any = atom.aval
        known = isinstance(atom, core.Literal) or atom in env
        return read(atom) if known else jnp.zeros(aval.shape, aval.dtype)

    for eqn, wanted, tally in living(jaxpr, live, scope)[0]:
        values = [*map(operand, eqn.invars)]
        if eqn.primitive.name in calls.INLINED or _varies(eqn):
            results, tally = _equation(eqn, values, wanted, narrowed(scope, eqn))
            outvars = [var for var, alive in zip(eqn.outvars, wanted, strict=True) if alive]
        else:
            results, outvars = equations.evaluation(eqn)(*values), eqn.outvars
        env.update(zip(outvars, results, strict=True))
        total = total + tally
    outputs = zip(jaxpr.outvars, live, strict=True)
    return [read(var) for var, alive in outputs if alive], total


def _varies(eqn: core.JaxprEqn) -> bool:
    """Whether what an equation costs is not known before it has run."""
    if eqn.primitive.name == "while":
        return True
    bodies = [body.jaxpr for body in calls.bodies(eqn)]
    if eqn.primitive.name == "cond":
        tallies = [walk(body, [True] * len(body.outvars), "")[0][0] for body in bodies]
        if len(set(tallies)) > 1:
            return True
    return any(_varies(inside) for body in bodies for inside in body.eqns)


def _equation(
    eqn: core.JaxprEqn, operands: Sequence[Any], live: Sequence[bool], scope: str
) -> tuple[list[Any], Any]:
    """The live results and the tally of an equation with others inside."""
    name = eqn.primitive.name
    if name in ("while", "scan"):
        results, tally = (_while if name == "while" else _scan)(eqn, operands, scope)
        return [result for result, alive in zip(results, live, strict=True) if alive], tally
    if name == "cond":
        index, *inputs = operands

        def run(branch: core.ClosedJaxpr, *inputs: Any) -> tuple[list[Any], Array]:
            results, tally = _run(branch, inputs, live, scope)
            return results, jnp.asarray(tally)

        branches = [functools.partial(run, branch) for branch in eqn.params["branches"]]
        return jax.lax.switch(index, branches, *inputs)
    body = calls.called(eqn)
    if body is None:
        raise NotImplementedError(
            f"metered: expected loops and branches that can be counted, got them in {name}; try "
            "flops.count, which takes one trip of each"
        )
    if name == "custom_vmap_call":  # lanes in turn, as `fnn.solvers` takes factorizations

        @sequential_vmap
        def called(*operands: Any) -> tuple[list[Any], Array]:
            with jax.enable_x64(True):  # it may be traced anew when the lanes are made
                results, tally = _run(body, operands, live, scope)
                return results, jnp.asarray(tally)

        return called(*operands)
    return _run(body, operands, live, scope)


def _while(eqn: core.JaxprEqn, operands: Sequence[Any], scope: str) -> tuple[Sequence[Any], Array]:
    """The results and the tally of a `while`, whose trips are counted as they are made."""
    going, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    first = eqn.params["cond_nconsts"]
    then = first + eqn.params["body_nconsts"]
    test = walk(going.jaxpr, [True], scope)[0]
    everything = [True] * len(eqn.outvars)

    def more(carry: tuple[list[Any], Array]) -> Array:
        (result,) = core.jaxpr_as_fun(going)(*operands[:first], *carry[0])
        return result

    def trip(carry: tuple[list[Any], Array]) -> tuple[list[Any], Array]:
        results, tally = _run(body, [*operands[first:then], *carry[0]], everything, scope)
        return results, carry[1] + test + tally

    return jax.lax.while_loop(more, trip, (list(operands[then:]), jnp.asarray(test)))


def _scan(eqn: core.JaxprEqn, operands: Sequence[Any], scope: str) -> tuple[Sequence[Any], Array]:
    """The results and the tally of a `scan`, whose steps may cost more or less."""
    body, (consts, carried) = eqn.params["jaxpr"], equations.scan_arity(eqn)
    everything = [True] * len(eqn.outvars)

    def step(carry: tuple[list[Any], Array], slices: list[Any]) -> tuple:
        given = [*operands[:consts], *carry[0], *slices]
        results, tally = _run(body, given, everything, scope)
        return (results[:carried], carry[1] + tally), results[carried:]

    start = list(operands[consts : consts + carried]), jnp.zeros(2)
    (carry, total), stacked = jax.lax.scan(
        step,
        start,
        list(operands[consts + carried :]),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    return [*carry, *stacked], total
