"""Convolutions in the one order of axes in which XLA computes them well in a loop on a CPU.

XLA brings the convolutions of a program's entry into this order by itself, but not those in the
body of a loop or a branch, where the two that JAX makes for a derivative take up to twenty times as
long (jax-ml/jax issue 12868).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import core
from jaxtyping import Array

from fnn.programs.calls import INLINED, bodies
from fnn.programs.equations import evaluation

CONVOLUTION = "conv_general_dilated"

WALKED = INLINED | {
    "scan", "while", "cond", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call",
}  # fmt: skip
"""Equations whose bodies are rewritten. Those of others, as of `shard_map`, may mean something that
only their own equation knows."""


def has_slow_convolutions(closed: core.ClosedJaxpr) -> bool:
    """Whether a loop or a branch of a program has a convolution in another order of axes."""
    return any(
        has_slow_convolutions(body) if eqn.primitive.name in INLINED else _is_slow(body)
        for eqn in closed.jaxpr.eqns
        for body in _walked(eqn)
    )


def with_fast_convolutions(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose convolutions all have this order; to be compiled, not differentiated."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def of_arrays(*arrays: Array) -> Any:
            given = dict(zip(places, arrays, strict=True))
            args, kwargs = tree.unflatten(given.get(i, leaf) for i, leaf in enumerate(leaves))
            return fn(*args, **kwargs)

        arrays = [leaves[i] for i in places]
        closed, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
        with jax.enable_x64(True):  # every dtype is written in the jaxpr, and some are float64
            results = _results(closed, arrays)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _is_slow(closed: core.ClosedJaxpr) -> bool:
    """Whether a program has a convolution in another order of axes, anywhere."""
    return any(
        (eqn.primitive.name == CONVOLUTION and _order(eqn) != _fast(eqn))
        or any(map(_is_slow, _walked(eqn)))
        for eqn in closed.jaxpr.eqns
    )


def _walked(eqn: core.JaxprEqn) -> Iterator[core.ClosedJaxpr]:
    """The bodies of an equation that are rewritten."""
    return bodies(eqn) if eqn.primitive.name in WALKED else iter(())


def _results(closed: core.ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
    """What a program computes, in the fast order."""
    env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in closed.jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name == CONVOLUTION and _order(eqn) != _fast(eqn):
            results = [_convolution(eqn, *values)]
        elif any(map(_is_slow, _walked(eqn))):
            results = evaluation(_with_fast_bodies(eqn))(*values)
        else:
            results = evaluation(eqn)(*values)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _with_fast_bodies(eqn: core.JaxprEqn) -> core.JaxprEqn:
    """An equation whose jaxprs have the fast order."""

    def anew(parameter: Any) -> Any:
        is_open = isinstance(parameter, core.Jaxpr)
        if not is_open and not isinstance(parameter, core.ClosedJaxpr):
            return parameter
        closed = core.ClosedJaxpr(parameter, ()) if is_open else parameter
        made = jax.make_jaxpr(lambda *operands: _results(closed, operands))(
            *(_kind(var.aval) for var in closed.jaxpr.invars)
        )
        return made.jaxpr if is_open else made

    return eqn.replace(params={name: jax.tree.map(anew, each) for name, each in eqn.params.items()})


def _kind(aval: Any) -> jax.ShapeDtypeStruct:
    """What is known of an operand."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _order(eqn: core.JaxprEqn) -> lax.ConvDimensionNumbers:
    """The axes of inputs, kernel and results: batch, features, places; outputs, inputs, places."""
    return eqn.params["dimension_numbers"]


def _fast(eqn: core.JaxprEqn) -> lax.ConvDimensionNumbers:
    """Batch, places, features; places, inputs, outputs."""
    n = len(_order(eqn).out_spec) - 2
    data, kernel = (0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n))
    return lax.ConvDimensionNumbers(data, kernel, data)


def _convolution(eqn: core.JaxprEqn, inputs: Array, kernel: Array) -> Array:
    """A convolution between transpositions."""
    own, fast = _order(eqn), _fast(eqn)
    inputs = _moved(inputs, own.lhs_spec, fast.lhs_spec)
    kernel = _moved(kernel, own.rhs_spec, fast.rhs_spec)
    result = eqn.primitive.bind(inputs, kernel, **eqn.params | {"dimension_numbers": fast})
    return _moved(result, fast.out_spec, own.out_spec)


def _moved(array: Array, own: Sequence[int], new: Sequence[int]) -> Array:
    """An array whose axes with these meanings stand at other places."""
    places = dict(zip(new, own, strict=True))
    return lax.transpose(array, [places[axis] for axis in range(array.ndim)])
