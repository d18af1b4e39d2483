"""The pure loop: steps within an epoch, and rounds of steps within a call.

Every step is optax's own idiom,

    value, grad = jax.value_and_grad(value_fn)(params)
    updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
    params = optax.apply_updates(params, updates)

and at the end of a round the training is evaluated. A round may end within an epoch. The numbers of
steps and rounds are arguments, so that training longer compiles nothing. Everything random is a
function of the key and of the step's number, so that the way a run is cut into calls does not
matter. Lanes of a `vmap` go on together until each has stopped.
"""

import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from fnn.branches import in_any_lane
from fnn.dtypes import widest
from fnn.rules import projected, relative_length

EACH = 10_000
"""A gradient is judged entry by entry in leaves of up to so many entries, whose units may differ as
they do in a vector of a model's constants. The weights of a layer, of which there may be millions,
share a unit, and would cost the memory of a moment of Adam."""


class Stop(enum.IntEnum):
    """Why training stopped; `str` gives a sentence."""

    RUNNING = 0
    BUDGET = 1
    GOAL = 2
    PATIENCE = 3
    NON_FINITE = 4
    CALLBACK = 5
    DATA = 6
    STALLED = 7
    CONVERGED = 9  # Checkpoints hold these numbers; 8 meant something else.

    def __str__(self) -> str:
        """The reason as a sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    Stop.RUNNING: "Still running.",
    Stop.BUDGET: "All steps asked for were taken.",
    Stop.GOAL: "The mean value over a round reached the goal.",
    Stop.PATIENCE: "The validation loss stopped improving; the best parameters are returned.",
    Stop.NON_FINITE: (
        "A value, a gradient, a parameter or a validation loss was not finite; the parameters "
        "before that round are returned. "
        "Try a smaller learning rate, or look for log(0), sqrt(0) or 0/0 in the model."
    ),
    Stop.CALLBACK: "The callback asked for it.",
    Stop.DATA: "The iterator of batches ran out.",
    Stop.STALLED: (
        "No step that the rule knows of lowered the value, and the gradient is not small here. Try "
        "float64, another scaling or damping, or another start; and look whether the value is a "
        "smooth function of the parameters."
    ),
    Stop.CONVERGED: (
        "A minimum within the tolerance, as far as the gradient tells: what was left to gain, or "
        "to move, is below it."
    ),
}


class Progress(NamedTuple):
    """The carry of the loop: fixed shapes, so that it can be mapped over lanes and stored."""

    params: PyTree
    state: PyTree
    step: Int[Array, ""]
    stopped: Int[Array, ""]
    best: PyTree  # the parameters and the state of the lowest validation loss, or None
    best_loss: Float[Array, ""]
    waited: Int[Array, ""]
    mean: Float[Array, ""]  # of the values over the last round
    steepest: PyTree  # the largest magnitude so far of each entry of a gradient, or of each leaf
    slope: Float[Array, ""]  # the largest entry of the last gradient, relative to these
    highest: Float[Array, ""]  # the largest magnitude of the mean of a round so far


class Limits(NamedTuple):
    """How far one call of `advance` goes: traced numbers, so that other limits compile nothing."""

    steps: int
    rounds: int
    goal: float = -np.inf
    patience: int = np.iinfo(np.int32).max
    tolerance: float = -1.0  # nothing is below a negative one
    mark: int = 1  # the steps from one mark to the next, where marks are kept


class Source(NamedTuple):
    """Where value functions come from: `steps` in an epoch, `epoch(n)` being the n-th epoch.

    `epoch(n)` prepares an epoch (draws the order of its examples) and returns a function from the
    position of a step within it to that step's value function.
    """

    steps: int
    epoch: Callable[[Int[Array, ""]], Callable[[Int[Array, ""]], Callable[[PyTree], Scalar]]]


class Records(NamedTuple):
    """What a call of `advance` saw: the value at each step, the evaluation after each round.

    `trail` has the parameters and the state at each mark, a row for each: one array for each dtype
    in them, in which the leaves of that dtype follow one another; or it is None.
    """

    value: Float[Array, " steps"]
    steps: Int[Array, " rounds"]
    evaluated: dict[str, Float[Array, " rounds"]]
    rounds: Int[Array, ""]
    trail: PyTree = None


def start(rule: optax.GradientTransformation, params: PyTree, *, keep_best: bool) -> Progress:
    """The loop's carry before the first step.

    Args:
        rule: an optax transformation.
        params: the starting point.
        keep_best: whether parameters and state of the lowest validation loss are kept.

    Returns:
        The carry.
    """
    zero = jnp.zeros((), jnp.int32)
    state = rule.init(params)
    best = (params, state) if keep_best else None
    most = jnp.array(jnp.finfo(jnp.result_type(float)).max)  # infinity is an error to debug_infs
    steepest = jax.tree.map(lambda leaf: jnp.zeros_like(_sizes(leaf)), params)
    slope = jnp.ones((), widest(*jax.tree.leaves(steepest)))
    mean, highest = jnp.copy(most), jnp.zeros_like(most)
    return Progress(params, state, zero, zero, best, most, zero, mean, steepest, slope, highest)


def advance(
    rule: optax.GradientTransformation,
    source: Source,
    evaluate: Callable[[Progress], dict[str, Scalar]],
    progress: Progress,
    first: int | Int[Array, ""],
    limits: Limits,
    *,
    round_end: Callable[[Int[Array, ""]], Int[Array, ""]],
    capacity: tuple[int, ...],
) -> tuple[Progress, Records]:
    """Trains for some rounds: a pure function, for `jit` and `vmap`.

    A lane that has stopped keeps its parameters and state while the others go on. Marks, of which
    nothing is kept by default, are the steps whose number, counted from the start of training, is a
    multiple of `limits.mark`.

    Args:
        rule: an optax transformation, with or without extra arguments.
        source: gives each step its value function.
        evaluate: looks at the training after each round; returns named scalars, of which `loss`
            decides about patience.
        progress: the carry.
        first: the number of steps before this call.
        limits: how far to go.
        round_end: after how many steps of this call the r-th round ends, r from 0.
        capacity: how many values of steps, and how many rounds, the records can hold; and how many
            marks, if any.

    Returns:
        The carry after it, and the records of these rounds; a lane's values end at its `step`, and
        zeros follow (NaN would be an error under jax_debug_nans).
    """
    rule = optax.with_extra_args_support(rule)

    # The step is bare: what there is to judge is judged once a round, which costs nothing; the
    # gradient of the last step, too, which only has to be kept.
    def run_step(value_fn: Callable[[PyTree], Scalar], carry: tuple):
        clock, params, state, values, total, _, trail = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        values = values.at[clock].set(value.astype(values.dtype))
        params = optax.apply_updates(params, updates)
        if is_mark_each:
            trail = _kept(trail, clock, (params, state))
        total += value.astype(total.dtype)
        return clock + 1, params, state, values, total, grad, trail

    # To the end of an epoch, or of the round that ends before it.
    def run_part(end: Array, carry: tuple):
        epoch, position = jnp.divmod(jnp.asarray(first, jnp.int32) + carry[0], source.steps)
        value_fn_at = source.epoch(epoch)
        last = jnp.minimum(source.steps, position + end - carry[0])
        run = run_marked if most_marks and not is_mark_each else jax.lax.fori_loop
        return run(position, last, lambda i, c: run_step(value_fn_at(i), c), carry)

    # As `fori_loop` does, from mark to mark, where parameters and state are kept; what ends before
    # a mark leaves in its place what the rest of the way will replace. (A mark at each step needs
    # no loop of its own, which would cost 10 % of a small step.)
    def run_marked(position: Array, last: Array, step: Callable, carry: tuple):
        def run_to_mark(c: tuple):
            position, carry = c
            taken = progress.step + carry[0]
            stop = jnp.minimum(last, position + limits.mark - taken % limits.mark)
            *others, trail = jax.lax.fori_loop(position, stop, step, carry)
            place = taken // limits.mark - progress.step // limits.mark
            trail = _kept(trail, place, (others[1], others[2]))
            return stop, (*others, trail)

        return jax.lax.while_loop(lambda c: c[0] < last, run_to_mark, (position, carry))[1]

    # Loops count in `clock` and are over when no lane needs them: under vmap a loop whose condition
    # depends on the lane would copy every buffer at every step.
    def run_round(carry: tuple[Array, Array, Progress, Records]):
        clock, r, p, records = carry
        end = jnp.minimum(round_end(r), limits.steps).astype(jnp.int32)
        start = clock, p.params, p.state, records.value, jnp.zeros((), wide), p.params
        ended, params, state, values, total, grad, trail = jax.lax.while_loop(
            lambda c: c[0] < end, functools.partial(run_part, end), (*start, records.trail)
        )
        steps = ended - clock
        p = judge(p, params, state, steps, total / steps.astype(wide), grad, limits)
        p, evaluated = look(evaluate, p, limits.patience)
        ends = records.steps.at[r].set(p.step)
        evaluated = {name: records.evaluated[name].at[r].set(v) for name, v in evaluated.items()}
        return ended, r + 1, p, Records(values, ends, evaluated, r + 1, trail)

    def more_rounds(carry: tuple[Array, Array, Progress, Records]):
        clock, r, p, _ = carry
        within = (r < limits.rounds) & (clock < limits.steps)
        return within & in_any_lane(p.stopped == Stop.RUNNING)

    max_steps, max_rounds, most_marks = (*capacity, 0)[:3]
    is_mark_each = most_marks > max_steps
    zero = jnp.zeros((), jnp.int32)
    value = jax.eval_shape(lambda params: source.epoch(zero)(zero)(params), progress.params)
    wide = widest(value.dtype, jnp.float32)  # bfloat16 sums stop growing at 256
    evaluated = jax.eval_shape(evaluate, progress)
    records = Records(
        jnp.zeros(max_steps, value.dtype),
        jnp.zeros(max_rounds, jnp.int32),
        {name: jnp.zeros(max_rounds, v.dtype) for name, v in evaluated.items()},
        zero,
        _room(most_marks, (progress.params, progress.state)) if most_marks else None,
    )
    return jax.lax.while_loop(more_rounds, run_round, (zero, zero, progress, records))[2:]


def _room(marks: int, tree: PyTree) -> list[Array]:
    """Room for what `_kept` puts there, at so many marks."""
    return [jnp.broadcast_to(row, (marks, row.size)) for row in _rows(tree)]


def _kept(room: list[Array], place: Array, tree: PyTree) -> list[Array]:
    """The room with a tree in its place."""
    return [
        jax.lax.dynamic_update_index_in_dim(array, row, place, 0)
        for array, row in zip(room, _rows(tree), strict=True)
    ]


def _rows(tree: PyTree) -> list[Array]:
    """All leaves of a dtype, one after the other, in the order in which dtypes are met."""
    # A write costs XLA as much as what it writes: one for each of 13 leaves took 20 % of a step of
    # the digits network, in place of 8 % (processor time, two busy cores).
    groups: dict[Any, list[Array]] = {}
    for leaf in jax.tree.leaves(tree):
        groups.setdefault(leaf.dtype, []).append(leaf.ravel())
    return [jnp.concatenate(leaves) for leaves in groups.values()]


def judge(
    progress: Progress,
    params: PyTree,
    state: PyTree,
    steps: int | Int[Array, ""],
    value: Scalar,
    grad: PyTree,
    limits: Limits,
) -> Progress:
    """Takes what a round arrived at, unless it is not finite or the lane had stopped before.

    Args:
        progress: the carry before the round.
        params: the parameters after it.
        state: the rule's state after it.
        steps: the steps of the round.
        value: the mean value over these steps.
        grad: the gradient of its last step.
        limits: the goal and the tolerance.

    Returns:
        The carry after the round.
    """
    running = progress.stopped == Stop.RUNNING
    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves((params, grad)):
        finite &= jnp.isfinite(leaf).all()
    value = value.astype(progress.mean.dtype)
    # Within bounds a gradient counts as far as it leads.
    steepest, slope, of_leaves = _slopes(progress, projected(state, grad))
    highest = jnp.maximum(progress.highest, jnp.abs(value))
    rounding = jnp.finfo(slope.dtype).eps
    flat = _flat(value, highest, jnp.maximum(limits.tolerance, rounding))
    converged = _is_converged(progress, params, state, value, slope <= flat, limits.tolerance)
    # No step lowers the value: as a decrease by its last digits is not seen, eight times is flat,
    # in a leaf as a whole; of an entry that was never steep half of the digits are left.
    is_flat = (of_leaves <= 8 * flat) & (slope <= jnp.sqrt(flat))
    is_flat &= ~_is_promised(state, 8 * rounding * highest)
    stop = jnp.where(is_flat, Stop.CONVERGED, Stop.STALLED)
    verdict = jnp.where(is_stalled(state), stop, Stop.RUNNING)
    verdict = jnp.where(converged, Stop.CONVERGED, verdict)
    verdict = jnp.where(value <= limits.goal, Stop.GOAL, verdict)
    verdict = jnp.where(finite, verdict, Stop.NON_FINITE)
    taken = functools.partial(jax.tree.map, lambda new, old: jnp.where(running & finite, new, old))
    return progress._replace(
        params=taken(params, progress.params),
        state=taken(state, progress.state),
        step=progress.step + jnp.where(running, steps, 0),
        stopped=jnp.where(running, verdict, progress.stopped).astype(jnp.int32),
        mean=taken(value, progress.mean),
        steepest=taken(steepest, progress.steepest),
        slope=taken(slope, progress.slope),
        highest=taken(highest, progress.highest),
    )


def _slopes(progress: Progress, grad: PyTree) -> tuple[PyTree, Array, Array]:
    """The largest magnitudes of a gradient so far; the relative gradient of entries, of leaves."""
    sizes = jax.tree.map(_sizes, grad)
    steepest = jax.tree.map(jnp.maximum, progress.steepest, sizes)
    pairs = zip(jax.tree.leaves(sizes), jax.tree.leaves(steepest), strict=True)
    slopes = zip(*(_relative(*pair) for pair in pairs), strict=True)
    slope, of_leaves = (functools.reduce(jnp.maximum, ratios) for ratios in slopes)
    return steepest, slope, of_leaves


def _sizes(leaf: Array) -> Array:
    """The magnitude of each entry of a leaf, or the largest of a leaf with many."""
    sizes = jnp.abs(leaf).astype(_wide(leaf))
    return sizes if leaf.size <= EACH else jnp.max(sizes, initial=0)


def _relative(sizes: Array, steepest: Array) -> tuple[Array, Array]:
    """The largest ratio of a leaf's entries to what each was, and to what any of them was."""
    highest = jnp.max(steepest, initial=0)
    is_rounding = sizes <= 16 * jnp.finfo(sizes.dtype).eps * highest
    most = jnp.where(is_rounding, highest, steepest)
    slope = jnp.max(sizes / jnp.where(most > 0, most, 1), initial=0)
    return slope, jnp.max(sizes, initial=0) / jnp.where(highest > 0, highest, 1)


def _flat(value: Array, highest: Array, tolerance: Array) -> Array:
    """The relative gradient below which no more is left to fall than a tolerance of the value."""
    # In a bowl the value goes by the square of the gradient: where the greatest gradient stands for
    # the highest value, what is left is that value times the square of the relative gradient.
    share = jnp.abs(value) / jnp.where(highest > 0, highest, 1)
    return jnp.sqrt(tolerance * jnp.clip(share, jnp.finfo(share.dtype).eps, 1))


def _is_converged(
    progress: Progress,
    params: PyTree,
    state: PyTree,
    value: Array,
    is_flat: Array,
    tolerance: float,
) -> Array:
    """Whether little is left by the rule's model, or else by gradient, step and decrease."""
    promise, reach = (_greatest(state, name) for name in ("promise", "reach"))
    last_digits = 8 * tolerance  # of numbers that moved by rounding, and a little more
    if promise is not None and reach is not None:
        return (promise <= tolerance * jnp.abs(value)) | (reach <= last_digits)
    decrease = jnp.abs(progress.mean - value)
    step = jax.tree.map(jnp.subtract, params, progress.params)
    return (
        is_flat
        & (relative_length(progress.params, step) <= last_digits)
        & (decrease <= last_digits * jnp.abs(value))
    )


def _is_promised(state: PyTree, decrease: Array) -> Array:
    """Whether a rule's model promises more than a decrease, of which rounding may be a part."""
    promise = _greatest(state, "promise")
    if promise is None:
        return jnp.zeros((), bool)
    return (promise > decrease) & (promise < jnp.finfo(promise.dtype).max)


def has_outlook(state: PyTree) -> bool:
    """Whether a rule's state says what its model still promises, as `promise` and `reach`."""
    return _greatest(state, "promise") is not None


def _greatest(state: PyTree, name: str) -> Array | None:
    """The greatest of the scalar fields of a name in a state; None where there is none."""
    numbers = [jnp.asarray(number) for _, number in fields_of(state, name)]
    return functools.reduce(jnp.maximum, numbers) if numbers else None


def fields_of(state: PyTree, name: str) -> list[tuple[str, Any]]:
    """The scalar fields of a name in a state, each with the name of the tuple that has it."""
    fields = optax.tree.get_all_with_path(
        state, name, lambda path, _: isinstance(path[-1], optax.tree_utils.NamedTupleKey)
    )
    return [
        (path[-1].tuple_name, value)
        for path, value in fields
        if value is not None and jnp.shape(value) == ()
    ]


def is_stalled(state: PyTree) -> Bool[Array, ""]:
    """Whether a rule says that it cannot go on: a scalar field `stalled` of its state is true.

    Args:
        state: any rule's state; it may hold several such fields, or none.

    Returns:
        A boolean.
    """
    stalled = _greatest(state, "stalled")
    return jnp.zeros((), bool) if stalled is None else stalled


def look(
    evaluate: Callable[[Progress], dict[str, Scalar]],
    progress: Progress,
    patience: int,
) -> tuple[Progress, dict[str, Scalar]]:
    """Evaluates the training, keeps the best, and stops when patience is out or at a NaN.

    Args:
        evaluate: returns named scalars; `loss` decides.
        progress: the carry.
        patience: the rounds to wait for a lower loss.

    Returns:
        The carry and what was evaluated.
    """
    evaluated = evaluate(progress)
    if progress.best is None or not evaluated:
        return progress, evaluated
    loss = evaluated["loss"].astype(progress.best_loss.dtype)
    better = loss < progress.best_loss
    waited = jnp.where(better, 0, progress.waited + 1)
    verdict = jnp.where(waited >= patience, Stop.PATIENCE, progress.stopped)
    verdict = jnp.where(jnp.isfinite(loss), verdict, Stop.NON_FINITE)
    running = progress.stopped == Stop.RUNNING
    here = progress.params, progress.state
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), here, progress.best)
    progress = progress._replace(
        best=best,
        best_loss=jnp.where(better, loss, progress.best_loss),
        waited=waited,
        stopped=jnp.where(running, verdict, progress.stopped).astype(jnp.int32),
    )
    return progress, evaluated


def _wide(leaf: Array) -> Any:
    """The dtype of a number about a leaf: never half precision, which overflows."""
    return widest(leaf.dtype, jnp.float32)
