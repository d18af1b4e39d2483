"""Phases: one rule after another, as one rule with one state.

    first = rules.adam(1e-3), rules.plateau(patience=100)
    rule = rules.phases([first, (rules.levenberg_marquardt(), None)])

A phase ends after a number of steps, or when a condition on the values says so. The next rule
starts then, from the parameters at hand: its state is made new.

A compiled step costs what its own phase costs, plus the loop's gradient, which another phase may
need. Mapped with `jax.vmap` it costs one phase as long as all lanes are in the same one, as after a
number of steps they are; while some lanes are in one and some in another it costs both, and every
lane keeps its own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from fnn.branches import where_due
from fnn.interned import interned
from fnn.rules.contract import Scalar, owned, require_within


class Until(NamedTuple):
    """When a phase ends: a condition with a memory of arrays.

    Attributes:
        start: `() -> memory`, as the phase begins.
        look: `(memory, value, steps) -> (memory, done)`, after each step: the value before it, and
            how many steps the phase has taken.
    """

    start: Callable[[], PyTree]
    look: Callable[[PyTree, Array | None, Int[Array, ""]], tuple[PyTree, Bool[Array, ""]]]


class PhasesState(NamedTuple):
    """What a sequence of rules remembers.

    Attributes:
        phase: The number of the phase of the next update, from 0.
        steps: Steps taken in it.
        memories: Of each condition.
        states: Of each rule; before its phase, as at the very start.
    """

    phase: Int[Array, ""]
    steps: Int[Array, ""]
    memories: tuple
    states: tuple


@interned
def plateau(patience: int = 20, rtol: Scalar = 1e-3) -> Until:
    """The end of a phase in which the value has stopped falling.

    Done after `patience` steps in a row without a value below `best - rtol |best|`, best being the
    lowest until then. Values of mini-batches scatter: the patience must outlast it.

    Args:
        patience: steps to wait, at least 1.
        rtol: the relative decrease that counts, at least 0.

    Returns:
        The condition.

    Example:
        >>> condition = plateau(patience=2)
        >>> memory = condition.start()
        >>> for steps, value in enumerate([3.0, 2.0, 2.0, 1.999]):
        ...     memory, done = condition.look(memory, jnp.array(value), steps)
        >>> print(done)
        True
    """
    require_within("plateau", 1, float("inf"), patience=patience)
    require_within("plateau", 0, float("inf"), rtol=rtol)

    def start() -> tuple[Array, Array]:
        # Not infinity, which under jax_debug_infs may leave no compiled program.
        dtype = jnp.result_type(float)
        return jnp.full((), jnp.finfo(dtype).max, dtype), jnp.zeros((), jnp.int32)

    def look(memory: PyTree, value: Array | None, steps: Array) -> tuple[PyTree, Array]:
        del steps
        if value is None:
            raise TypeError(
                "plateau: expected the value in the update, got none; try "
                "rule.update(updates, state, params, value=value)"
            )
        best, waited = memory
        bar = jnp.where(jnp.isfinite(best), best - rtol * jnp.abs(best), best)
        value = jnp.asarray(value, best.dtype)
        lower = value < bar
        best = jnp.where(lower, value, best)
        waited = jnp.where(lower, 0, waited + 1)
        return (best, waited), waited >= patience

    return Until(start, look)


@interned
def phases(
    sequence: Sequence[tuple[optax.GradientTransformation, int | Until | None]],
) -> optax.GradientTransformationExtraArgs:
    """One rule after another, each `until` its number of steps or its condition.

    Args:
        sequence: pairs `(rule, until)`: any transformation of optax or ours, and a number of steps,
            at least 1, or a condition such as `plateau()`. The last is without end, None.

    Returns:
        A rule; its state is a `PhasesState`. Its update needs `params`, and what its rules and
        conditions need.

    Raises:
        ValueError: if there are no phases, one of them but the last has no end, the last one has,
            or a number of steps is less than 1.

    Example:
        >>> from fnn import rules
        >>> rule = phases([(rules.sgd(0.1), 2), (rules.newton(), None)])
        >>> bowl, x = lambda x: (x - 1) ** 2, jnp.array(3.0)
        >>> state = rule.init(x)
        >>> for _ in range(3):
        ...     grad = jax.grad(bowl)(x)
        ...     updates, state = rule.update(grad, state, x, value_fn=bowl)
        ...     x = x + updates
        ...     print(f"{x:.2f}", state.phase)
        2.60 0
        2.28 1
        1.00 1
    """
    stages = [(optax.with_extra_args_support(rule), _until(until)) for rule, until in sequence]
    if not stages or stages[-1][1] is not None or any(until is None for _, until in stages[:-1]):
        ends = [until for _, until in sequence]
        raise ValueError(
            "phases: expected an end for every phase but the last, None for the last, got "
            f"{ends}; try [(rules.adam(1e-3), 1000), (rules.levenberg_marquardt(), None)]"
        )

    def init(params: PyTree) -> PhasesState:
        zero = jnp.zeros((), jnp.int32)
        memories = tuple(() if until is None else until.start() for _, until in stages)
        states = tuple(rule.init(params) for rule, _ in stages)
        return owned(PhasesState(zero, zero, memories, states))

    def update(
        updates: PyTree, state: PhasesState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PhasesState]:
        if params is None:
            raise ValueError(
                "phases: expected params, from which the next rule starts, got None; try "
                "rule.update(updates, state, params, ...)"
            )
        steps, step = state.steps + 1, optax.tree.zeros_like(updates)
        done, states, memories = jnp.zeros((), bool), [], []
        for index, (rule, until) in enumerate(stages):
            is_here = state.phase == index
            turn = functools.partial(_turn, rule, index, state, updates, params, extra_args)
            step, own = where_due(is_here, turn, (step, state.states[index]))
            states.append(own)
            memory = state.memories[index]
            if until is not None:
                after, is_over = until.look(memory, extra_args.get("value"), steps)
                memory = _select(is_here, after, memory)
                done |= is_here & is_over
            memories.append(memory)
        return step, PhasesState(
            phase=state.phase + done.astype(jnp.int32),
            steps=jnp.where(done, 0, steps),
            memories=tuple(memories),
            states=tuple(states),
        )

    bare: Any = init, update
    return optax.GradientTransformationExtraArgs(*bare)


def _turn(
    rule: optax.GradientTransformationExtraArgs,
    index: int,
    state: PhasesState,
    updates: PyTree,
    params: PyTree,
    extra_args: dict[str, Any],
) -> tuple[PyTree, Any]:
    """The step of one phase's rule and its state, which is made new where the phase begins."""
    own = state.states[index]
    if index:
        own = _select(state.steps == 0, rule.init(params), own)
    step, own = rule.update(updates, own, params, **extra_args)
    return jax.tree.map(lambda u, g: u.astype(g.dtype), step, updates), own


def _until(until: int | Until | None) -> Until | None:
    """The condition, of a number of steps as well."""
    if not isinstance(until, int):
        return until
    if until < 1:
        raise ValueError(f"phases: expected at least 1 step in a phase, got {until}; try 1")
    return Until(tuple, lambda memory, _, steps: (memory, steps >= until))


def _select(condition: Array, one: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
