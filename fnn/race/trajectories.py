"""The paths of rules over a plane, to look at: who overshoots, who lingers, who is drawn in.

    paths = trajectories(surface.fn, start, rules_on("saddle", ["sgd", "newton"]), steps)
    plots.landscape_figure(landscape, paths)

These rules do not race: their learning rates are those that show what each rule is like.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from fnn import names, rules

RULES: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": rules.sgd,
    "momentum": rules.momentum,
    "nesterov": rules.nesterov,
    "adagrad": rules.adagrad,
    "rmsprop": rules.rmsprop,
    "adam": rules.adam,
    "adamw": rules.adamw,
    "rprop": rules.rprop,
    "newton": rules.newton,
    "saddle_free_newton": rules.saddle_free_newton,
    "trust_region_newton": rules.trust_region_newton,
    "cubic_newton": rules.cubic_newton,
    "gauss_newton": rules.gauss_newton,
    "levenberg_marquardt": rules.levenberg_marquardt,
    "bfgs": rules.bfgs,
    "sr1": rules.sr1,
    "lbfgs": optax.lbfgs,
}
"""All rules here can be drawn, `gauss_newton` and `levenberg_marquardt` only with residuals."""

SHOWN = "sgd", "momentum", "adagrad", "rmsprop", "adam", "newton", "saddle_free_newton"
"""The rules that are drawn unless others are named."""

_GENTLE = {
    "sgd": 0.05,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adagrad": 0.3,
    "rmsprop": 0.05,
    "adam": 0.1,
    "adamw": 0.1,
    "rprop": 0.05,
}
RATES: Mapping[str, Mapping[str, float]] = {
    "bowl": _GENTLE,
    "ravine": _GENTLE | {"sgd": 0.018, "momentum": 0.004, "nesterov": 0.004},
    "saddle": _GENTLE,
    "rosenbrock": _GENTLE
    | {"sgd": 1e-3, "momentum": 1e-3, "nesterov": 1e-3, "adagrad": 0.5, "rmsprop": 0.02},
    "beale": _GENTLE | {"sgd": 0.01, "momentum": 0.01, "nesterov": 0.01, "saddle_free_newton": 0.3},
}
"""Learning rates by surface; rules without an entry have their defaults. The rates of sgd and
momentum follow the largest curvature, those of adaptive rules the width of the picture."""

STEPS: Mapping[str, int] = {
    "bowl": 60,
    "ravine": 100,
    "saddle": 60,
    "rosenbrock": 300,
    "beale": 150,
}
"""The number of steps after which the paths of the rules have parted."""

BESIDE_THE_RIDGE = (-1.5, 1e-3)
"""A start on the saddle from which every rule but Newton's can leave it, some late."""


def rules_on(surface: str, named: Sequence[str] = SHOWN) -> dict[str, optax.GradientTransformation]:
    """Rules with the learning rates that suit a surface.

    Args:
        surface: its name, one of `RATES`; other surfaces get the bowl's, for curvatures near 1.
        named: rules, of `RULES`.

    Returns:
        The rules by the calls that make them, "sgd(0.05)" or "newton()".

    Raises:
        ValueError: if no rules are named, or an unknown one; then it names the nearest match.

    Example:
        >>> list(rules_on("saddle", ["sgd", "newton"]))
        ['sgd(0.05)', 'newton()']
    """
    if not named:
        raise ValueError(f"rules_on: expected rules, got none; try {', '.join(SHOWN)}")
    rates = RATES.get(surface, _GENTLE)
    by_call = {}
    for name in named:
        rule = names.look_up("rule", name, RULES)
        if name in rates:
            by_call[f"{name}({rates[name]:g})"] = rule(rates[name])
        else:
            by_call[f"{name}()"] = rule()
    return by_call


def trajectories(
    value_fn: Callable[[Float[Array, "2"]], Scalar],
    start: Float[ArrayLike, "2"],
    rules: Mapping[str, optax.GradientTransformation],
    steps: int,
) -> dict[str, Float[np.ndarray, "points 2"]]:
    """The paths that rules take from one start, each one compiled scan.

    A rule whose next point would not be finite stays where it is, for good.

    Args:
        value_fn: a value function, or any function of two numbers.
        start: the point where they begin.
        rules: any optax transformations, by their names.
        steps: the number of steps, at least 1.

    Returns:
        For each rule `steps + 1` points, the start first, all of them finite.

    Raises:
        ValueError: if the start is not two finite numbers, or there are no steps.

    Example:
        >>> from fnn import rules
        >>> paths = trajectories(lambda x: x @ x, [1.0, 2.0], {"sgd": rules.sgd(0.25)}, steps=2)
        >>> paths["sgd"].tolist()
        [[1.0, 2.0], [0.5, 1.0], [0.25, 0.5]]
    """
    first = jnp.asarray(start, dtype=float)
    if first.shape != (2,) or not np.all(np.isfinite(first)):
        raise ValueError(f"trajectories: expected a start of two finite numbers, got {start}")
    if steps < 1:
        raise ValueError(f"trajectories: expected at least one step, got {steps}")
    return {
        name: np.asarray(_path(value_fn, first, optax.with_extra_args_support(rule), steps))
        for name, rule in rules.items()
    }


_Carry = tuple[Array, PyTree, Bool[Array, ""]]  # the point, the rule's state, whether it moves


def _path(
    value_fn: Callable[[Array], Scalar],
    start: Float[Array, "2"],
    rule: optax.GradientTransformationExtraArgs,
    steps: int,
) -> Float[Array, "points 2"]:
    """The path of one rule, as one compiled scan."""

    def step(carry: _Carry, _: None) -> tuple[_Carry, Array]:
        point, state, moving = carry
        value, grad = jax.value_and_grad(value_fn)(point)
        updates, state = rule.update(grad, state, point, value=value, grad=grad, value_fn=value_fn)
        (following,) = jax.tree.leaves(optax.apply_updates(point, updates))
        moving &= jnp.all(jnp.isfinite(following))
        point = jnp.where(moving, following, point)
        return (point, state, moving), point

    @jax.jit
    def walk(start: Array) -> Array:
        carry = start, rule.init(start), jnp.array(True)
        return jnp.concatenate([start[None], jax.lax.scan(step, carry, length=steps)[1]])

    return walk(start)
