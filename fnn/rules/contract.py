"""The contract of a rule, and the few lines that keep it.

A rule is a function of hyperparameters that returns `optax.GradientTransformationExtraArgs`, a pair

    init(params) -> state
    update(updates, state, params=None, **extra_args) -> (updates, state)

so it runs wherever optax's transformations run. Extra arguments that a rule does not read are
ignored. The state holds arrays alone, of shapes and dtypes that never change, each in memory of its
own, so that it may be scanned, mapped, donated and stored.

Hyperparameters are of two kinds, told apart by their annotations. The ones that admit a `float` may
also be traced arrays: they can be mapped with `jax.vmap` and scheduled with
`optax.inject_hyperparams`, and nothing branches on their values. The others (`int`, `bool`, dtypes)
shape the compiled program; `static_arguments` lists them, and arrays in their places raise.
Learning rates and weight decays are `float | Schedule`: they take any function of the count of
steps, which starts at 0.

Rules are values (`interned_rule`): an equal call with hashable arguments gives the same object, so
that what is compiled for a rule serves wherever the rule is made anew.

Updates have derivatives with respect to all that they are given, as `jax.jvp` makes them, with x64
and without: what is solved is differentiated as the solution of its equations (see
`solvers.ladder`), what is accepted or rejected as it was decided. Reverse derivatives, `jax.grad`
of a step, exist as well unless a rule says that it has none; then JAX raises.

Misuse raises before anything runs: numbers out of range and of wrong type when the rule is made,
leaves that cannot be trained in `init`, trees that do not match in `update`. Traced values are not
checked. `updates` have the dtypes of the gradient, whatever those of the hyperparameters.
"""

import functools
import inspect
import math
import types
from collections.abc import Callable
from numbers import Real
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from fnn.dtypes import widest
from fnn.interned import interned

Scalar = float | Array
Schedule = optax.Schedule
State = TypeVar("State")
_Arguments = ParamSpec("_Arguments")
_Rule = TypeVar("_Rule")


def static_arguments(rule: Callable[..., optax.GradientTransformation]) -> tuple[str, ...]:
    """The names of a rule's hyperparameters that cannot be traced.

    Args:
        rule: a function that returns a transformation, all of its arguments annotated.

    Returns:
        The arguments whose annotation admits no `float`, in the order of the signature; what
        `optax.inject_hyperparams` wants as `static_args`.

    Raises:
        TypeError: if an argument has no annotation.

    Example:
        >>> from fnn import rules
        >>> static_arguments(rules.adam)
        ('mu_dtype', 'nesterov')
        >>> adam = optax.inject_hyperparams(rules.adam, static_arguments(rules.adam))
        >>> state = adam(learning_rate=1e-3).init(jnp.zeros(2))
        >>> sorted(state.hyperparams)
        ['b1', 'b2', 'eps', 'eps_root', 'learning_rate']
    """
    parameters = inspect.signature(rule, eval_str=True).parameters
    bare = [name for name, p in parameters.items() if p.annotation is p.empty]
    if bare:
        raise TypeError(
            f"static_arguments: expected annotated arguments, got {', '.join(bare)} without; "
            "annotate what may be traced as `float`, the rest as what it is"
        )
    return tuple(name for name, p in parameters.items() if float not in _choices(p.annotation))


def interned_rule(make: Callable[_Arguments, _Rule]) -> Callable[_Arguments, _Rule]:
    """A rule's function, `interned`, whose integers, booleans and dtypes must not be arrays."""
    remembered, names = interned(make), tuple(inspect.signature(make).parameters)

    @functools.wraps(make)
    def rule(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Rule:
        given = dict(zip(names, args, strict=False)) | kwargs
        _require_plain(make, {n: x for n, x in given.items() if isinstance(x, Array)})
        return remembered(*args, **kwargs)

    return rule


def require_within(rule: str, low: float, high: float, **scalars: Any) -> None:
    """Require numbers in [low, high), the error naming rule and argument; traced values pass."""
    for name, value in scalars.items():
        if isinstance(value, Real):  # NumPy's numbers too
            value = float(value)
            if not low <= value < high:
                raise ValueError(
                    f"{rule}: expected {name} in [{low}, {high}), got {value}; "
                    f"try {_inside(value, low, high)}"
                )
        elif callable(value):
            raise TypeError(
                f"{rule}: expected {name} to be a number or a traced scalar, got {value!r}; "
                f"try optax.inject_hyperparams, which takes schedules for every number"
            )
        elif not isinstance(value, Array | np.ndarray) or np.ndim(value) != 0:
            got = f"an array of shape {np.shape(value)}" if np.ndim(value) else repr(value)
            raise TypeError(
                f"{rule}: expected {name} to be a number or a traced scalar, got {got}; "
                "try float(...), or jax.vmap over several values"
            )


def require_rates(rule: str, **scalars: Any) -> None:
    """Require non-negative numbers; schedules and traced values pass."""
    fixed = {name: value for name, value in scalars.items() if not callable(value)}
    require_within(rule, 0, math.inf, **fixed)


def checked(
    transformation: optax.GradientTransformation, leaves: type = jnp.inexact
) -> optax.GradientTransformationExtraArgs:
    """The same transformation with its parameters, trees and dtypes guarded."""
    inner = optax.with_extra_args_support(transformation)

    def init(params: PyTree) -> optax.OptState:
        _require_trainable(params, leaves)
        return owned(inner.init(params))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        if params is not None:
            require_aligned(updates, params, "params")
        grad = jax.tree.map(jnp.asarray, updates)
        if "grad" in extra_args and not was_transformed(updates, extra_args["grad"]):
            extra_args["grad"] = grad  # the same objects stay the same
        updates, state = inner.update(grad, state, params, **extra_args)
        return jax.tree.map(lambda g, u: cast(u, g.dtype), grad, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def second_order(
    init: Callable[[PyTree], Any], update: Callable[..., tuple[PyTree, Any]]
) -> optax.GradientTransformationExtraArgs:
    """A rule that calls the model: parameters must be there, whole, and real."""
    needed = [
        name
        for name, argument in inspect.signature(update).parameters.items()
        if argument.kind is argument.KEYWORD_ONLY and argument.default is argument.empty
    ]
    bare: Any = init, update
    inner = checked(optax.GradientTransformationExtraArgs(*bare), jnp.floating)

    def init_whole(params: PyTree) -> Any:
        _require_whole(params)
        return inner.init(params)

    @functools.wraps(update)
    def update_whole(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError(
                "update: expected params, where the curvature is, got None; try "
                "rule.update(updates, state, params, ...)"
            )
        _require_whole(params)
        _require_gradients(updates, params)
        _require_given(needed, extra_args)
        return inner.update(updates, state, jax.tree.map(jnp.asarray, params), **extra_args)

    return optax.GradientTransformationExtraArgs(init_whole, update_whole)


def was_transformed(updates: PyTree, grad: PyTree) -> bool:
    """Whether something changed the gradient before it came to the rule.

    Told while tracing, by the identity of the arrays and not by their numbers: where the leaves are
    the same objects nothing has to be computed for their difference.

    Args:
        updates: the gradient as it came to the rule.
        grad: the gradient of the loop.

    Returns:
        False where both trees hold the same objects.

    Example:
        >>> grad = {"w": jnp.ones(2)}
        >>> was_transformed(dict(grad), grad), was_transformed(optax.tree.scale(0.5, grad), grad)
        (False, True)
    """
    ours, theirs = jax.tree.leaves(updates), jax.tree.leaves(grad)
    return len(ours) != len(theirs) or any(
        one is not other for one, other in zip(ours, theirs, strict=True)
    )


def owned(state: State) -> State:
    """A new state whose arrays share memory neither with each other nor with the parameters.

    A buffer that two arguments share can be donated only once, and `init` likes to put one zero
    into many fields. (What a compiled function returns shares nothing.)

    Returns:
        The state, each array copied; what is no array, as it is.

    Example:
        >>> zero = jnp.zeros(())
        >>> one, other = owned((zero, zero))
        >>> one is other
        False
    """
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, Array) else leaf, state)


def require_aligned(updates: PyTree, tree: PyTree, name: str) -> list:
    """The leaves of a tree that belong to those of the gradient, in whose place None fits any."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=lambda g: g is None)
    remedy = f"try updates and {name} that come from the same parameters"
    try:
        others = treedef.flatten_up_to(tree)
        same = jax.tree_util.all_leaves([
            other for (_, g), other in zip(paths, others, strict=True) if g is not None
        ])
    except ValueError:
        same, others = False, []
    if not same:
        raise ValueError(
            f"update: expected updates and {name} of one structure, got updates {treedef} "
            f"and {name} {jax.tree.structure(tree)}; {remedy}"
        )
    for (path, g), other in zip(paths, others, strict=True):
        if g is not None and jnp.shape(g) != jnp.shape(other):
            raise ValueError(
                f"update: expected updates and {name} of one shape, got {jnp.shape(g)} and "
                f"{jnp.shape(other)} at {_name(path)}; {remedy}"
            )
    return others


def cast(x: Array, dtype: Any) -> Array:
    """The array in another dtype, never dropping an imaginary part."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"update: expected gradient and accumulator both real or both complex, got {x.dtype} "
            f"to be kept as {jnp.dtype(dtype)}; try accumulators of the gradient's dtype (None)"
        )
    return x.astype(dtype)


def now(number: Scalar | Schedule, steps: Int[Array, ""]) -> Scalar:
    """A hyperparameter after so many steps."""
    return jnp.asarray(number(steps)) if callable(number) else number


def state_dtype(params: PyTree) -> Any:
    """The dtype of the numbers that a rule remembers: the widest of the parameters', not half."""
    return widest(jnp.float32, *map(jnp.result_type, jax.tree.leaves(params)))


def require_fit(rule: str, size: int, dtype: Any, memory_budget: int, remedy: str) -> None:
    """Require a state of size x size numbers to fit in a budget of bytes."""
    needed = size**2 * jnp.dtype(dtype).itemsize
    if needed > memory_budget:
        raise ValueError(
            f"{rule}: expected a matrix of {size} x {size} numbers to fit in memory_budget = "
            f"{memory_budget} bytes, got {needed}; try {remedy}, or more memory"
        )


def require_same_size(matrix: Array, size: int) -> None:
    """Require the matrix in a state to be of so many parameters."""
    if len(matrix) != size:
        raise ValueError(
            f"update: expected updates and state of one number of parameters, got {size} and "
            f"{len(matrix)}; try a state that init made of the same parameters"
        )


def _choices(annotation: Any) -> tuple:
    """The members of a union; of anything else, itself."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _require_plain(make: Callable[..., Any], arrays: dict[str, Array]) -> None:
    """Require arrays to be no arguments of a rule that shape its program."""
    kinds = {int: "int", bool: "bool", np.dtype: "dtype"}
    for name in arrays:
        choices = _choices(inspect.signature(make, eval_str=True).parameters[name].annotation)
        kind = next((kinds[choice] for choice in choices if choice in kinds), None)
        if kind is not None and float not in choices:
            rule = f"rules.{make.__name__}"
            raise TypeError(
                f"{make.__name__}: expected {name} to be a plain {kind}, got an array, as traced "
                f"values are; try optax.inject_hyperparams({rule}, rules.static_arguments({rule}))"
                ", which leaves such arguments as they are"
            )


def _inside(value: float, low: float, high: float) -> str:
    """A hint at values that would have been accepted."""
    if low <= -value < high:
        return f"{-value}"
    return f"a number below {high}" if value >= high else f"{low}"


def _require_trainable(params: PyTree, leaves: type) -> None:
    """Require leaves of a kind of dtype: `inexact`, or `floating` where complex has no meaning."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not (isinstance(dtype, np.dtype | type) and jnp.issubdtype(dtype, leaves)):
            raise TypeError(
                f"init: expected parameters of {leaves.__name__} dtype, got "
                f"{getattr(dtype, '__name__', dtype)} at {_name(path)}; try to cast it, to keep it "
                "out of params (None in its place), or optax.masked around the rule"
            )


def _require_whole(params: PyTree) -> None:
    """Require parameters that no mask has holes in."""
    masked = [*map(_is_masked, jax.tree.leaves(params, is_leaf=_is_masked))]
    if any(masked):
        raise TypeError(
            "rules: expected parameters that the model can be called with, got MaskedNode in "
            f"{sum(masked)} of {len(masked)} places; in place of optax.masked or "
            "optax.partition try rules.only(rule, mask), True where a leaf is trained"
        )


def _require_gradients(updates: PyTree, params: PyTree) -> None:
    """Require parameters, and a gradient of each of them."""
    if not jax.tree.leaves(params):
        raise ValueError(
            "update: expected parameters to train, got a tree without leaves; try a mask with "
            "at least one True"
        )
    leaves = jax.tree.leaves_with_path(updates, is_leaf=lambda leaf: leaf is None)
    without = {path for path, leaf in leaves if leaf is None}
    for path, _ in jax.tree.leaves_with_path(params):
        if path in without:
            raise ValueError(
                f"update: expected a gradient of every parameter, got None at {_name(path)}; try "
                "rules.only(rule, mask), True where a leaf is trained"
            )


def _require_given(needed: list[str], extra_args: dict[str, Any]) -> None:
    """Require the extra arguments that a rule reads."""
    missing = [name for name in needed if name not in extra_args]
    if missing:
        raise TypeError(
            f"update: expected {', '.join(f'{name}=' for name in missing)} beside updates, state "
            "and params, got none: this rule calls the model. Try rules.bind(rule, objective), "
            "which makes them itself, where a loop or a wrapper (optax.MultiSteps, "
            "optax.lookahead, optax.contrib.sam) does not pass them on; rules.accumulate for a "
            "step from several batches"
        )


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _name(path: tuple) -> str:
    return f"params{jax.tree_util.keystr(path)}"
