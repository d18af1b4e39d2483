"""A rule within bounds."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from fnn import devices
from fnn.box import Box, Sides, held_at, outside, place_of, sides_of
from fnn.interned import interned
from fnn.objective import ValueFunction
from fnn.rules.contract import Scalar, owned


class BoundedState(NamedTuple):
    """What a rule within bounds remembers. Its tuples go by the leaves of the parameters.

    Attributes:
        rule: The state of the rule.
        held: Of each leaf, which entries the last update held at a bound; None where it is open.
        slack: How far from a bound rounding left what the last step led there; 0 elsewhere.
        outside: The place of the first entry that was out of bounds where training started, or -1.
    """

    rule: PyTree
    held: tuple
    slack: tuple
    outside: tuple


@interned
def bounded(
    rule: optax.GradientTransformation,
    lower: Scalar | PyTree | None = None,
    upper: Scalar | PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A rule within a box, lower <= params <= upper.

    The rule minimizes the value of the parameters' projection onto the box. Entries at a bound
    whose gradient points out of the box are held there: for the rule their gradient, and all
    curvature that they are part of, is 0. Everything else is the rule's own step, cut off at the
    bounds. Rules that look before they step (Levenberg-Marquardt, trust regions, quasi-Newton)
    judge the projected step, by what their model promises for it and by the value that it leads to;
    of first-order rules it is the projected gradient method.

    Parameters stay within the box to the last bit. A minimum on the boundary is one where the
    gradient of what is not held is small, and `fit` says so.

    Its `init` raises a ValueError if a lower bound is above an upper one or one of them is NaN, if
    bounds do not fit the parameters, or if these start out of bounds. (Traced, it cannot see where
    they start, and the first step leads into the box; `fit` raises all the same.)

    Put it around everything that changes the step, `bounded(optax.chain(...), ...)`, and around
    `only` and `phases`. Leaves without bounds keep their factored curvature; a bounded leaf has the
    cost of an explicit Jacobian.

    Args:
        rule: any transformation of optax or ours. `kfac` and `ekfac` read the structure of the
            model, which projected leaves have not; `bayesian_levenberg_marquardt` estimates a prior
            that knows of no bounds.
        lower: a number for all entries, or a tree of the structure of the parameters whose leaves
            are numbers, arrays that broadcast, or None; None and -inf are open.
        upper: likewise; None and inf are open. Where both bounds are the same an entry is fixed.

    Invariant:
        With open bounds the path is that of `rule`.

    Returns:
        A rule; its state is a `BoundedState`. Made of numbers, equal calls give the same object;
        of arrays, make it once.

    Source:
        Bertsekas (1982), "Projected Newton methods for optimization problems with simple
        constraints", doi:10.1137/0320018, for what is held; Kanzow, Yamashita and Fukushima (2004),
        "Levenberg-Marquardt methods with strong local convergence properties for solving nonlinear
        equations with convex constraints", doi:10.1016/j.cam.2004.02.013, for projected trials.

    Differs:
        Bertsekas holds what is near a bound, within a distance to be chosen; here it is at the
        bound. Where a projected step does not lower the value, the second source searches along the
        projected gradient; here more damping turns the step that way.

    Example:
        >>> import fnn
        >>> line = fnn.Objective(lambda w, x: w[0] * x[0] + w[1] - x[1])  # residuals of a line
        >>> value_fn = line.on(jnp.array([[0.0, 1.0], [1.0, 0.5], [2.0, 0.0]]))
        >>> rule, w = bounded(fnn.rules.levenberg_marquardt(), lower=0.0), jnp.ones(2)
        >>> found = fnn.fit(rule, value_fn, w, steps=50)
        >>> print(found.params.round(4), found.stopped.name)  # a slope of -1/2 is out of bounds
        [0.  0.5] CONVERGED
    """
    inner = optax.with_extra_args_support(rule)
    sides_for = functools.partial(sides_of, "bounded", lower, upper)

    def init(params: PyTree) -> BoundedState:
        if not jax.tree.leaves(params):  # a placeholder of `optax.tree.map_params`, for any tree
            placeholder: Any = params
            return BoundedState(inner.init(params), placeholder, placeholder, placeholder)
        sides = sides_for(params)
        leaves = jax.tree.leaves(params, is_leaf=lambda leaf: leaf is None)
        pairs = [*zip(sides, leaves, strict=True)]
        state = BoundedState(
            inner.init(params),
            tuple(None if own is None else jnp.zeros(jnp.shape(p), bool) for own, p in pairs),
            tuple(None if own is None else jnp.zeros_like(p) for own, p in pairs),
            outside(sides, jax.tree.map(jnp.asarray, params)),
        )
        if not devices.is_traced((state.outside, params)):
            require_inside(state, params)
        return owned(state)

    def update(
        updates: PyTree, state: BoundedState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, BoundedState]:
        if params is None:
            raise ValueError(
                "bounded: expected params, which are to stay within bounds, got None; try "
                "rule.update(updates, state, params, ...)"
            )
        sides, params = sides_for(params), jax.tree.map(jnp.asarray, params)
        if not any(own is not None for own in sides):
            step, after = inner.update(updates, state.rule, params, **extra_args)
            return step, state._replace(rule=after)
        grad = extra_args.get("grad", updates)
        box = Box(sides, held_at(sides, params, grad, state.slack))
        updates, grad = _without_held(box, updates, grad)
        if "grad" in extra_args:
            extra_args["grad"] = grad
        if "value_fn" in extra_args:
            extra_args["value_fn"] = _within(box, extra_args["value_fn"])
        step, after = inner.update(updates, state.rule, params, **extra_args)
        step = box.landing(params, step)
        return step, state._replace(
            rule=after,
            held=tuple(None if held is None else held.mask for held in box.held),
            slack=_slack(sides, params, step),
        )

    bare: Any = init, update
    return optax.GradientTransformationExtraArgs(*bare)


def require_inside(state: Any, params: PyTree) -> None:
    """Require parameters that were within the bounds of every rule in a state where it began.

    Args:
        state: any rule's state, not traced, made from these parameters.
        params: the parameters.

    Raises:
        ValueError: naming the first entry that was not.
    """
    paths = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda leaf: leaf is None)
    for own in _bounded_in(state):
        if len(paths) != len(own.outside):  # a mask around it hides leaves, and their names
            continue
        for (path, leaf), index in zip(paths, own.outside, strict=True):
            if index is None or int(index) < 0:
                continue
            place = place_of(f"params{jax.tree_util.keystr(path)}", int(index), jnp.shape(leaf))
            raise ValueError(
                "bounded: expected a start within the bounds, got "
                f"{jnp.ravel(leaf)[int(index)]} at {place}; try jnp.clip(params, lower, upper), or "
                "other bounds"
            )


def projected(state: Any, grad: PyTree) -> PyTree:
    """A gradient with 0 where the rules in a state hold an entry at a bound; of several, all do.

    Args:
        state: any rule's state.
        grad: the gradient that it has last seen.

    Returns:
        The gradient itself where there are no bounds.
    """
    leaves, treedef = jax.tree.flatten(grad)
    all_held = [own.held for own in _bounded_in(state)]
    if not all_held or any(len(held) != len(leaves) for held in all_held):
        return grad
    for place, masks in enumerate(zip(*all_held, strict=True)):
        if all(mask is not None for mask in masks):
            leaves[place] = jnp.where(functools.reduce(jnp.logical_and, masks), 0, leaves[place])
    return treedef.unflatten(leaves)


def _bounded_in(state: Any) -> list[BoundedState]:
    """The states of rules within bounds that a state has."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, BoundedState))
    return [node for node in nodes if isinstance(node, BoundedState)]


def _without_held(box: Box, updates: PyTree, grad: PyTree) -> tuple[PyTree, PyTree]:
    """Both without what is held; what was one object stays one."""
    ours = box.without_held(updates)
    theirs = box.without_held(grad)
    before = zip(jax.tree.leaves(updates), jax.tree.leaves(grad), strict=True)
    after = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    same = [
        one if was is is_now else other
        for (was, is_now), (one, other) in zip(before, after, strict=True)
    ]
    return ours, jax.tree.unflatten(jax.tree.structure(theirs), same)


def _within(box: Box, value_fn: Callable[..., Array]) -> Callable[..., Array]:
    """A value function within a box; of any other function one with the attribute `box`."""
    if isinstance(value_fn, ValueFunction):
        return value_fn.within(box)

    @functools.wraps(value_fn)
    def confined(params: PyTree, *args: Any, **kwargs: Any) -> Array:
        return value_fn(box.hold(params), *args, **kwargs)

    confined.__dict__["box"] = box
    return confined


def _slack(sides: tuple[Sides | None, ...], params: PyTree, step: PyTree) -> tuple:
    """How far from a bound rounding leaves each entry that a step leads there."""

    def of_leaf(own: Sides, leaf: Array, change: Array) -> Array:
        reached = leaf + change
        gap = jnp.minimum(own.upper - reached, reached - own.lower)
        # Half of the last digit of a step is what its sum may lack, and one digit was taken off.
        rounding = 2 * jnp.finfo(leaf.dtype).eps * jnp.abs(change)
        return jnp.where(gap <= rounding, gap, 0).astype(leaf.dtype)

    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: leaf is None)
    changes = jax.tree.leaves(step, is_leaf=lambda leaf: leaf is None)
    return tuple(
        None if own is None else of_leaf(own, leaf, change)
        for own, leaf, change in zip(sides, leaves, changes, strict=True)
    )
