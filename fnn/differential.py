"""Differential operators: from a function of a point to its derivatives there.

An operator takes a function u and returns a function of the same arguments, differentiated in the
last of them, a point x: a number, or an array with a coordinate in each entry. So `laplacian(u)(x)`
of a function, and `laplacian(model.apply)(params, x)` of a model; the outputs of u, whatever their
shape, are differentiated one by one.

    gradient(u)             du/dx_i                     one more axis, last
    divergence(u)           sum over i of du_i/dx_i     of a vector field
    laplacian(u)            sum over i of d2u/dx_i^2
    derivative(u, i, j)     d2u/dx_i dx_j               any order; du/dt is `derivative(u, 0)` where
                                                        t comes first; along a direction as well
    hessian_product(u)      sum over j of d2u/dx_i dx_j v_j

The result is an ordinary function, to be combined, differentiated and mapped:

    def interior(params, x):
        u = functools.partial(model.apply, params)
        return derivative(u, 0)(x) - 0.25 * laplacian(u, (1,))(x)      # the heat equation

All of them work forward, so that those of one residual share what they have in common: the
compiler finds it, and so does `curvature.capture`, for which a weight that meets the value, the
slopes and the Laplacian of a layer is one leaf with d + 2 uses. (The backward sweep over all of it,
in the parameters, is JAX's.)

The Laplacian is propagated as such, after Li et al. (2023): beside every value of u's program go
its d slopes and *one* sum of second derivatives,

    L(f(z)) = f'(z) L(z) + f''(z) sum over i of (dz/dx_i)^2

which is d + 2 numbers for each, where second derivatives along each coordinate are 2 d + 1
(`benchmarks/physics.py operators` times it beside nested `jax.jvp`s and `jax.experimental.jet`).
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jaxtyping import Array, Float

from fnn import programs
from fnn.products import HIGHEST

__all__ = ["derivative", "divergence", "forward", "gradient", "hessian_product", "laplacian"]
__dir__ = __all__.copy

Function = Callable[..., Array]


def gradient(u: Function) -> Function:
    """The slopes of a function, du/dx_i; of a vector-valued one, its Jacobian.

    Args:
        u: `u(*args, x) -> array`; differentiated in its last argument.

    Returns:
        A function of the same arguments; it returns an array of the shape of u, then that of x.

    Example:
        >>> import jax.numpy as jnp
        >>> gradient(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 2.0])).tolist()
        [4.0, 1.0]
    """

    def slopes(*args: Any, **kwargs: Any) -> Array:
        f, x = _point("gradient", u, args, kwargs)
        columns = jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1], out_axes=-1)(_axes(x))
        return columns.reshape(*columns.shape[:-1], *x.shape)

    return slopes


def divergence(u: Function) -> Function:
    """The sources of a vector field, the sum of du_i/dx_i.

    Args:
        u: `u(*args, x) -> array` of the shape of x; differentiated in its last argument.

    Returns:
        A function of the same arguments; it returns a number. (It raises a ValueError where u has
        another shape.)

    Example:
        >>> import jax.numpy as jnp
        >>> float(divergence(lambda x: x * x[0])(jnp.array([1.0, 2.0])))
        3.0
    """

    def sources(*args: Any, **kwargs: Any) -> Array:
        f, x = _point("divergence", u, args, kwargs)
        shape = jax.eval_shape(f, x).shape
        if shape != x.shape:
            raise ValueError(
                f"divergence: expected a field of the shape of the point, {x.shape}, got {shape}; "
                "try gradient for the derivatives of all of its components"
            )
        return jnp.sum(jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1] * v)(_axes(x)))

    return sources


def derivative(u: Function, *directions: int | Float[Array, "..."]) -> Function:
    """A partial derivative of any order, along coordinates or directions, one after the other.

    Args:
        u: `u(*args, x) -> array`; differentiated in its last argument.
        *directions: each is the number of a coordinate (like an index, so that -1 is the last), or
            an array of the shape of x, such as a normal. Two numbers make a second derivative,
            which is mixed if they differ; without any the result is u itself.

    Returns:
        A function of the same arguments; it returns an array of the shape of u. (It raises a
        ValueError for a direction that x has not, and warns where a second derivative is asked of a
        function that consists of linear pieces.)

    Example:
        >>> import jax.numpy as jnp
        >>> u = lambda x: x[0] ** 2 * x[1] ** 3
        >>> x = jnp.array([1.0, 2.0])
        >>> float(derivative(u, 0)(x)), float(derivative(u, 0, 1)(x)), float(derivative(u, 1, 1)(x))
        (16.0, 24.0, 12.0)
    """

    def along(*args: Any, **kwargs: Any) -> Array:
        f, x = _point("derivative", u, args, kwargs)
        vectors = [_direction(direction, x) for direction in directions]
        if len(vectors) > 1:
            _warn_if_flat("derivative", jax.make_jaxpr(f)(x))

        def slope(f: Function, v: Array) -> Function:
            return lambda x: jax.jvp(f, (x,), (v,))[1]

        return reduce(slope, vectors, f)(x)

    return along


def hessian_product(u: Function) -> Function:
    """The Hessian of a scalar function times a vector: how the slopes change along it.

    Args:
        u: `u(*args, x) -> scalar`; differentiated in its last argument.

    Returns:
        `product(*args, x, v) -> array` of the shape of x. (It raises a ValueError where u is no
        scalar or v has another shape than x.)

    Example:
        >>> import jax.numpy as jnp
        >>> u = lambda x: x[0] ** 2 * x[1]
        >>> hessian_product(u)(jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])).tolist()
        [2.0, 0.0]
    """

    def product(*args: Any, **kwargs: Any) -> Array:
        *before, v = args
        f, x = _point("hessian_product", u, before, kwargs)
        closed, out = jax.make_jaxpr(f, return_shape=True)(x)
        if out.shape != ():
            raise ValueError(
                f"hessian_product: expected a function that returns a scalar, got {out.shape}; try "
                "one of its outputs, lambda x: u(x)[0]"
            )
        _warn_if_flat("hessian_product", closed)
        return jax.jvp(gradient(f), (x,), (_direction(v, x),))[1]

    return product


def laplacian(u: Function, along: Sequence[int] | None = None) -> Function:
    """The sum of the second derivatives along all coordinates, or some of them.

    Args:
        u: `u(*args, x) -> array`; differentiated in its last argument.
        along: the numbers of the coordinates; None takes all. `(1, 2)` leaves out a time that comes
            first.

    Returns:
        A function of the same arguments; it returns an array of the shape of u. (It raises a
        ValueError for a coordinate that x has not, and warns where u consists of linear pieces, as
        a ReLU network does: its Laplacian is zero almost everywhere.)

    Source:
        Li, Ye, Huang, Duan, Wang, Li, Wang, Jiang and He, "Forward Laplacian: a new computational
        framework for neural network-based variational Monte Carlo" (2023), arXiv:2307.08214.

    Example:
        >>> import jax.numpy as jnp
        >>> u = lambda x: jnp.sin(x[0]) * jnp.exp(x[1])  # harmonic
        >>> float(laplacian(u)(jnp.array([0.3, 0.7]))), float(laplacian(u, (1,))(jnp.zeros(2)))
        (0.0, 0.0)
    """

    def sum_of_second_derivatives(*args: Any, **kwargs: Any) -> Array:
        f, x = _point("laplacian", u, args, kwargs)
        vectors = _axes(x)
        if along is not None:
            vectors = jnp.stack([_direction(int(axis), x) for axis in along])
        closed = jax.make_jaxpr(f)(x)
        _warn_if_flat("laplacian", closed)
        (output,) = _propagate(closed.jaxpr, closed.consts, [_Jet(x, vectors, None)])
        if isinstance(output, _Jet) and output.laplacian is not None:
            return output.laplacian
        return jnp.zeros_like(output.value if isinstance(output, _Jet) else output)

    return sum_of_second_derivatives


# --- points and directions ----------------------------------------------------------------------


def forward(model: Function) -> Function:
    """The same model, differentiated in forward mode even where reverse derivatives are asked for.

    Reverse mode cannot go through a `while_loop`, and gives NaN where a branch that `jnp.where` did
    not take has no derivative; forward mode does both. It pushes every number that the model is
    given through it, one after the other: for few parameters and short inputs.

    Args:
        model: a function of trees, such as `model(params, x)`; differentiable are its leaves of
            floating point.

    Returns:
        A function of the same arguments and value, whose derivatives of every kind are made of
        its Jacobian matrix in forward mode.

    Example:
        >>> halves = lambda x: jax.lax.while_loop(lambda y: y > 1, lambda y: y / 2, x)
        >>> print(jax.grad(forward(halves))(6.0))
        0.125
    """

    @jax.custom_jvp
    def call(*args: Any) -> Any:
        return model(*args)

    @call.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(primals)
        moving = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]

        def of(numbers: list) -> Any:
            every = list(leaves)
            for i, number in zip(moving, numbers, strict=True):
                every[i] = number
            return model(*jax.tree.unflatten(structure, every))

        changes = jax.tree.leaves(tangents)
        outputs = model(*primals)
        jacobian = jax.jacfwd(of)([jnp.asarray(leaves[i]) for i in moving])

        def along(rows: list) -> Array:
            parts = [
                jnp.tensordot(row, jnp.asarray(changes[i]), jnp.ndim(changes[i]), precision=HIGHEST)
                for row, i in zip(rows, moving, strict=True)
            ]
            return functools.reduce(jnp.add, parts)

        return outputs, jax.tree.map(lambda _, rows: along(rows), outputs, jacobian)

    @functools.wraps(model)
    def wrapped(*args: Any) -> Any:
        return call(*args)

    return wrapped


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _point(name: str, u: Function, args: Sequence[Any], kwargs: Any) -> tuple[Function, Array]:
    """The function of the point alone, and the point."""
    *before, x = args
    if not all(hasattr(leaf, "dtype") or isinstance(leaf, float) for leaf in [x]):
        raise TypeError(
            f"{name}: expected a point, a real array, as the last argument, got "
            f"{type(x).__name__}; try jnp.array(x, float)"
        )
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a point of real floating-point coordinates, got {x.dtype}; try "
            "x.astype(float)"
        )
    if x.ndim > 1:
        raise ValueError(
            f"{name}: expected one point, of shape () or (coordinates,), got {x.shape}; map points "
            "with Objective.on or jax.vmap"
        )

    def f(x: Array) -> Array:
        return u(*before, x, **kwargs)

    out = jax.eval_shape(f, x)
    if not hasattr(out, "dtype") or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a function that returns one real array, got {out}; try one of its "
            "outputs"
        )
    return f, x


def _axes(x: Array) -> Float[Array, "d ..."]:
    """The unit vectors of all coordinates."""
    return jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape) + _nothing(x)


def _nothing(x: Array) -> Array:
    """A zero that depends on the point: it makes directions data, which a weight meets in a use."""
    return 0 * x


def _direction(direction: Any, x: Array) -> Array:
    """A coordinate's unit vector, or a vector of the point's shape."""
    if isinstance(direction, int):
        if not -x.size <= direction < x.size:
            raise ValueError(
                f"derivative: expected a coordinate of a point with {x.size}, got {direction}; try "
                f"one from 0 to {x.size - 1}"
            )
        # The vector comes from equations, not from a stored array, so that a capture sees that two
        # of them are the same.
        is_axis = jnp.arange(x.size) == direction % x.size
        return jnp.where(is_axis, 1, 0).astype(x.dtype).reshape(x.shape) + _nothing(x)
    direction = jnp.asarray(direction, x.dtype)
    if direction.shape != x.shape:
        raise ValueError(
            f"derivative: expected directions of the shape of the point, {x.shape}, got "
            f"{direction.shape}; try the number of a coordinate"
        )
    return direction + _nothing(x)


# --- the propagation ----------------------------------------------------------------------------


class _Jet(NamedTuple):
    """A value that depends on the point, with its derivatives.

    Attributes:
        value: the value itself.
        slopes: its slopes along each direction, one more axis in front.
        laplacian: the sum of its second derivatives along them; None where all of them are 0.
    """

    value: Array
    slopes: Array
    laplacian: Array | None


# These equations are linear in all operands at once, or in the one that depends on the point.
_LINEAR = {
    "add", "add_any", "sub", "neg", "reshape", "transpose", "broadcast_in_dim", "squeeze", "slice",
    "reduce_sum", "convert_element_type", "concatenate", "pad", "rev", "copy", "select_n", "cumsum",
    "dynamic_slice", "gather", "expand_dims", "split", "stack", "unstack", "real",
    "reduce_window_sum",
}  # fmt: skip
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}

# These are smooth functions of one array, element by element.
_ELEMENTWISE = {
    "tanh", "sin", "cos", "tan", "exp", "exp2", "expm1", "log", "log1p", "logistic", "sqrt",
    "rsqrt", "cbrt", "integer_pow", "square", "erf", "erfc", "erf_inv", "sinh", "cosh", "asin",
    "acos", "atan", "asinh", "acosh", "atanh", "lgamma", "digamma",
}  # fmt: skip

# These have no second derivative but at their kinks.
_KINKED = {
    "max", "min", "abs", "sign", "floor", "ceil", "round", "clamp", "reduce_max", "reduce_min",
    "select_n", "stop_gradient", "sort", "argmax", "argmin", "eq", "ne", "ge", "gt", "le", "lt",
    "is_finite", "and", "or", "not", "rem",
}  # fmt: skip


def _is_linear(eqn: jex.JaxprEqn, dependence: Sequence[bool]) -> bool:
    """Whether an equation is linear in the operands that depend on the point."""
    name = eqn.primitive.name
    if name in _BILINEAR:
        return sum(dependence) == 1
    if name == "div":
        return not dependence[1]
    if name in ("select_n", "dynamic_slice", "gather"):
        return not any(dependence[1:] if name != "select_n" else dependence[:1])
    return name in _LINEAR


def _propagate(jaxpr: jex.Jaxpr, consts: Sequence[Array], args: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr, as jets where they depend on the point."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        operands = [a.val if isinstance(a, jex.Literal) else env[a] for a in eqn.invars]
        body = programs.called(eqn)
        if body is not None and eqn.primitive.name in programs.INLINED:
            outputs = _propagate(body.jaxpr, body.consts, operands)
        else:
            outputs = _through(eqn, operands)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [a.val if isinstance(a, jex.Literal) else env[a] for a in jaxpr.outvars]


def _through(eqn: jex.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The outputs of one equation."""
    evaluate = programs.evaluation(eqn)
    are_jets = [isinstance(operand, _Jet) for operand in operands]
    avals: list[Any] = [v.aval for v in eqn.outvars]
    are_real = [jnp.issubdtype(aval.dtype, jnp.inexact) for aval in avals]
    arrays = [operand.value if isinstance(operand, _Jet) else operand for operand in operands]
    if not any(are_jets) or not any(are_real):
        return list(evaluate(*arrays))
    jets = [operand for operand in operands if isinstance(operand, _Jet)]
    values, slopes, laplacians = (list(part) for part in zip(*jets, strict=True))

    def f(*values: Array) -> list[Array]:
        """The real results as a function of the values of the jets."""
        queue = iter(values)
        pairs = zip(are_jets, arrays, strict=True)
        results = evaluate(*(next(queue) if is_jet else array for is_jet, array in pairs))
        return [x for x, is_real in zip(results, are_real, strict=True) if is_real]

    if eqn.primitive.name in _ELEMENTWISE:
        outputs = [_elementwise(lambda z: f(z)[0], *jets[0])]
    elif _is_linear(eqn, are_jets):
        results, push = jax.linearize(f, *values)
        sums = _push_laplacians(push, values, laplacians, len(results))
        outputs = list(map(_Jet, results, jax.vmap(push)(*slopes), sums))
    else:
        outputs = _general(f, values, slopes, laplacians)
    if all(are_real):
        return outputs
    real_outputs = iter(outputs)
    pairs = zip(are_real, evaluate(*arrays), strict=True)
    return [next(real_outputs) if is_real else x for is_real, x in pairs]


def _push_laplacians(
    push: Callable[..., list[Array]],
    values: list[Array],
    laplacians: list[Array | None],
    count: int,
) -> Sequence[Array | None]:
    """The Laplacians after a linear map of `count` outputs."""
    if all(laplacian is None for laplacian in laplacians):
        return [None] * count
    pairs = zip(values, laplacians, strict=True)
    return push(*(jnp.zeros_like(z) if laplacian is None else laplacian for z, laplacian in pairs))


def _elementwise(f: Function, value: Array, slopes: Array, laplacian: Array | None) -> _Jet:
    """The output of a function of one array, element by element."""
    ones = jnp.ones_like(value)

    def slope(z: Array) -> tuple[Array, Array]:
        return jax.jvp(f, (z,), (ones,))

    (value, first), (_, second) = jax.jvp(slope, (value,), (ones,))
    total = second * jnp.sum(slopes * slopes, axis=0)
    return _Jet(value, first * slopes, total if laplacian is None else first * laplacian + total)


def _general(
    f: Callable[..., list[Array]],
    values: list[Array],
    slopes: list[Array],
    laplacians: list[Array | None],
) -> list[_Jet]:
    """The outputs of any other equation, by second derivatives along each direction, summed."""
    outputs, push = jax.linearize(f, *values)

    def second(tangents: list[Array]) -> list[Array]:
        def slope(*values: Array) -> list[Array]:
            return jax.jvp(f, values, tuple(tangents))[1]

        return jax.jvp(slope, tuple(values), tuple(tangents))[1]

    seconds = [jnp.sum(along, axis=0) for along in jax.vmap(second)(slopes)]
    firsts = _push_laplacians(push, values, laplacians, len(outputs))
    sums = [b if a is None else a + b for a, b in zip(firsts, seconds, strict=True)]
    return list(map(_Jet, outputs, jax.vmap(push)(*slopes), sums))


# --- linear pieces ------------------------------------------------------------------------------


def _warn_if_flat(name: str, closed: jex.ClosedJaxpr) -> None:
    """Warns where a function has kinks, and second derivatives of zero elsewhere."""
    nonlinear, _ = _nonlinear(closed.jaxpr, [True] * len(closed.jaxpr.invars))
    if nonlinear and nonlinear <= _KINKED:
        warnings.warn(
            f"{name}: the function consists of linear pieces ({', '.join(sorted(nonlinear))}), so "
            "that its second derivatives are zero almost everywhere; try a smooth activation, such "
            "as tanh or jax.nn.softplus",
            stacklevel=3,
        )


def _nonlinear(jaxpr: jex.Jaxpr, dependence: Sequence[bool]) -> tuple[set[str], list[bool]]:
    """The names of the equations not linear in the point, and which outputs depend on it."""
    env: dict[Any, bool] = dict(zip(jaxpr.invars, dependence, strict=True))
    nonlinear: set[str] = set()
    for eqn in jaxpr.eqns:
        inputs = [not isinstance(a, jex.Literal) and env.get(a, False) for a in eqn.invars]
        outputs = [any(inputs)] * len(eqn.outvars)
        bodies = list(programs.bodies(eqn))
        if len(bodies) == 1 and len(bodies[0].jaxpr.invars) == len(inputs) and any(inputs):
            inner, outputs = _nonlinear(bodies[0].jaxpr, inputs)
            nonlinear |= inner
        elif any(inputs) and not _is_linear(eqn, inputs):
            nonlinear.add(eqn.primitive.name)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return nonlinear, [not isinstance(a, jex.Literal) and env.get(a, False) for a in jaxpr.outvars]
