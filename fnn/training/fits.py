"""`fits`: many trainings at once, as lanes of one compiled program.

A member's steps are those of `fit` alone: the members share the compiled loop and nothing else.
"""

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from fnn.arrays import as_arrays
from fnn.objective import Objective, ValueFunction
from fnn.rules import require_inside
from fnn.training.account import Ending, account, reason, verdict
from fnn.training.door import called
from fnn.training.history import History
from fnn.training.job import Request, job_of, require_finite, strong
from fnn.training.lanes import carried_state, ends, lanes_of, template, train
from fnn.training.members import Members, keys_of
from fnn.training.mistakes import require_labels
from fnn.training.remarks import remarks
from fnn.training.sources import Metric
from fnn.training.streams import is_stream


class Fits(NamedTuple):
    """Trained models, the first axis of all arrays counting them.

    Attributes:
        params: the parameters, for `jax.vmap(model, (0, None))(params, x)` and the like.
        state: the rule's states.
        history: of each member what `fit` alone would have seen; members stop by themselves, so
            that these may differ in length.
        stopped: of each member why its training ended.
    """

    params: PyTree
    state: PyTree
    history: tuple[History, ...]
    stopped: tuple[Ending, ...]


def fits(
    rule: Any,
    objective: Objective | ValueFunction | Callable[[Array], ValueFunction] | None,
    params: PyTree,
    data: PyTree = None,
    *,
    hyperparameters: PyTree = None,
    data_axes: PyTree = None,
    validation_axes: PyTree = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    key: Key[Array, "..."] | None = None,
    validation: PyTree = None,
    metrics: Mapping[str, Metric] | None = None,
    patience: int | None = None,
    goal: float = -np.inf,
    tolerance: float | None = None,
    every: int = 1,
    prepare: Callable[[PyTree], PyTree] | None = None,
    state: PyTree = None,
    progress: bool | None = None,
) -> Fits:
    """Trains many members at once, each as `fit` would alone, in one compiled program.

    Members differ in their starts, and in keys, data and hyperparameters where these are given for
    each. A member that has stopped, or diverged, keeps what it has while the others go on; the call
    takes as long as its longest member. Compiled programs are kept as those of `fit` are. The
    members' arrays are held at once: make fewer of them at a time where memory is short.

    Of what `fit` takes it has no `weights`: `jax.vmap(lambda w: objective.on(data, weights=w))` of
    the members' weights, with `data_axes=0`, is a value function for each. There is no `callback`,
    since members end at steps of their own: call it again with `state` where something is to happen
    in between. And there is no `checkpoint` and no `sharding`.

    Args:
        rule: as in `fit`; with `hyperparameters`, a function from those of one member to its rule,
            such as `rules.adam`, made once: it is compiled again for another function.
        objective: as in `fit`. Value functions that differ in more than data are made by
            `jax.vmap(lambda weight: objective.on(data) + l2(weight))(weights)`, with `data_axes=0`.
        params: the starting points, every leaf with a first axis that counts the members.
        data: as in `fit`, no stream.
        hyperparameters: a tree of arrays whose first axis counts the members; the rule is called
            with one member's, which are traced. None for a rule that is the same for all.
        data_axes: as the `in_axes` of `jax.vmap`: None for data that all members share, 0 for data
            whose first axis counts members (and whose second counts examples), or a tree of both
            that is a prefix of the data: `(None, 0)` for shared inputs with targets of their own.
        validation_axes: the same of the validation data.
        steps: as in `fit`.
        epochs: as in `fit`.
        batch_size: as in `fit`.
        key: one key, of which `jax.random.split(key, members)` are the members' keys, or an array
            of a key for each.
        validation: as in `fit`.
        metrics: as in `fit`.
        patience: as in `fit`, of each member.
        goal: as in `fit`, of each member.
        tolerance: as in `fit`, of each member.
        every: as in `fit`.
        prepare: as in `fit`, of one member's parameters.
        state: the states to continue with, from earlier `Fits`, or made by `jax.vmap(rule.init)`
            and changed: numbers of `optax.inject_hyperparams` may differ from member to member.
        progress: as in `fit`, of all members together.

    Returns:
        The members. (It warns, and raises before anything runs, of what `fit` does; and where
        members disagree about their number, or there are none, it raises a ValueError that names
        the leaves, or a TypeError where `data` are a stream.)

    Example:
        >>> import jax
        >>> from fnn import rules
        >>> line = Objective(lambda w, x: w * x, lambda y, t: 0.5 * (y - t) ** 2)
        >>> data = jnp.arange(4.0), 3 * jnp.arange(4.0)
        >>> starts, rates = jnp.zeros(2), jnp.array([0.1, 0.2])
        >>> trained = fits(rules.sgd, line, starts, data, hyperparameters=rates, steps=100)
        >>> print(trained.params.round(4), trained.stopped[0].name)
        [3. 3.] CONVERGED
    """
    is_value = isinstance(objective, ValueFunction)
    _require_examples(is_value, data, validation)
    given = _members(
        {"params": params, "hyperparameters": hyperparameters, "state": state, "key": key},
        {"data": objective if is_value else data, "validation": validation},
        {"data": data_axes, "validation": validation_axes},
    )
    first, make = given.one(0), None if hyperparameters is None else rule
    with called("fits"), _explained(first):
        job = job_of(
            Request(
                rule if make is None else template(make, hyperparameters),
                first["data"] if is_value else objective,
                first["params"],
                None if is_value else first["data"],
                steps=steps,
                epochs=epochs,
                batch_size=batch_size,
                key=first["key"],
                validation=first["validation"],
                metrics=metrics,
                patience=patience,
                goal=goal,
                tolerance=tolerance,
                every=every,
                prepare=prepare,
                state=first["state"] if make is None else carried_state(first),
            )
        )
        _require_sound(given, objective)
        lanes = lanes_of(given, job, make)
        for index in range(given.members):
            own = lanes.one(index)["progress"]
            require_inside(own.state, own.params)
        carry, histories = train(job, lanes, progress)
    here = list(ends(job, given, carry, histories))
    stops = [verdict(*each) for each in here]
    _warn(remarks(*each, stop) for each, stop in zip(here, stops, strict=True))
    reasons = [reason(*each, stop) for each, stop in zip(here, stops, strict=True)]
    texts = [f"{why} {account(end)}" for (_, end), (_, why) in zip(here, reasons, strict=True)]
    params, state = carry.best or (carry.params, carry.state)
    return Fits(
        params,
        state if make is None else state.state,
        tuple(histories),
        tuple(Ending(stop, text) for (stop, _), text in zip(reasons, texts, strict=True)),
    )


def _members(
    own: dict[str, PyTree], examples: dict[str, PyTree], axes: dict[str, PyTree]
) -> Members:
    """What the members were given, all as arrays, with a key for each if there is one."""
    arrays = {
        name: tree if isinstance(tree, ValueFunction) else as_arrays("fits", name, tree)
        for name, tree in examples.items()
    }
    key = own.pop("key")
    trees = jax.tree.map(strong, own) | jax.tree.map(jnp.asarray, arrays)
    count = Members.of(trees, dict.fromkeys(own, 0) | axes).members
    return Members.of(
        trees | {"key": keys_of(key, count)}, dict.fromkeys(own, 0) | axes | {"key": 0}
    )


def _require_examples(is_value: bool, data: Any, validation: Any) -> None:
    """Data are arrays or a value function, not both, and nothing comes as a stream."""
    if is_value and data is not None:
        raise ValueError("fits: expected no data, since a value function brings its own")
    for name, tree in (("data", data), ("validation", validation)):
        if is_stream(tree):
            raise TypeError(
                f"fits: expected {name} as arrays, (inputs, targets), got a list or another stream "
                "of batches; try np.concatenate, or fit for each member"
            )


def _require_sound(given: Members, objective: Any) -> None:
    """What `fit` asks of the numbers of one member, asked of all."""
    names = "params", "data", "validation", "hyperparameters"
    require_finite({name: given.trees[name] for name in names})
    axes = Members.of(given.trees, dict.fromkeys(given.trees, None))
    if not isinstance(objective, Objective) or axes.axes == given.axes:
        return
    for index in range(given.members):
        one = given.one(index)
        for name in ("data", "validation"):
            if one[name] is not None and not isinstance(one[name], ValueFunction):
                require_labels(objective, one["params"], one[name])


def _warn(remarks_of_members: Iterable[Sequence[str]]) -> None:
    """Warns once of what was seen of members, in the words about the first of them."""
    of_members = list(remarks_of_members)
    seen = {index: remark for index, remarks in enumerate(of_members) for remark in remarks[:1]}
    if seen:
        index, remark = next(iter(seen.items()))
        warnings.warn(
            f"fits: of {len(of_members)} members, {len(seen)} deserve a remark; of member {index}: "
            f"{remark}",
            stacklevel=3,
        )


@contextlib.contextmanager
def _explained(first: Mapping[str, PyTree]) -> Generator[None]:
    """Adds to an error what the first member is, where it may not be meant so."""
    try:
        yield
    except (TypeError, ValueError) as error:
        shapes = jax.tree.map(jnp.shape, first["params"])
        error.add_note(
            f"fits: this is of the first of the members, with params of shapes {shapes} and data "
            f"of shapes {jax.tree.map(jnp.shape, first['data'])}: the first axis of every leaf of "
            "params counts members"
        )
        raise
