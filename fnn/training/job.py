"""A job: what `fit` was asked for, checked before anything runs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Key, PyTree

from fnn import devices
from fnn.objective import Objective, ValueFunction
from fnn.training.folder import leaves_by_path
from fnn.training.loop import History, Limits, Progress
from fnn.training.placement import everywhere, placed, placed_for_fit, sharding_of_examples
from fnn.training.plan import Plan, start
from fnn.training.snapshot import Position, Snapshot
from fnn.training.sources import Metric
from fnn.training.streams import is_stream

_UNLIMITED = np.iinfo(np.int32).max


class Job(NamedTuple):
    """A training that can begin: its arrays lie where they belong."""

    plan: Plan
    data: PyTree | Iterable[PyTree]  # arrays, a value function, None, or a stream
    validation: PyTree
    key: Key[Array, ""] | None
    progress: Progress  # before the first step
    limits: Limits
    epochs: int | None  # of a stream, whose length nobody knows

    @property
    def is_stream(self) -> bool:
        """Whether the data come as batches one after the other."""
        return is_stream(self.data)

    @property
    def begin(self) -> Snapshot:
        """The run before its first step."""
        history = History(np.zeros(0), np.zeros(0, np.int32), {})
        return Snapshot(self.progress, history, Position(), 0.0)

    @property
    def arrays(self) -> dict[str, PyTree]:
        """The arrays of the run, whose paths, shapes and dtypes make it the same job."""
        arrays = {"params": self.progress.params, "state": self.progress.state}
        data = None if self.is_stream else self.data
        return arrays | {"validation": self.validation, "data": data}

    @property
    def terms(self) -> dict[str, Any]:
        """Plain values and the key, which make it the same job."""
        plan, is_patient = self.plan, self.limits.patience != _UNLIMITED
        return {
            "batch_size": plan.batch_size,
            "every": plan.every,
            "goal": self.limits.goal,
            "key": self.key,
            "patience": self.limits.patience if is_patient else None,
            "metrics": [name for name, _ in plan.metrics],
        }


def job_of(
    rule: optax.GradientTransformation,
    objective: Objective | ValueFunction | Callable[[Array], ValueFunction] | None,
    params: PyTree,
    data: PyTree | Iterable[PyTree] = None,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    validation: PyTree = None,
    metrics: Mapping[str, Metric] | None = None,
    patience: int | None = None,
    goal: float = -np.inf,
    every: int = 1,
    prepare: Callable[[PyTree], PyTree] | None = None,
    state: PyTree = None,
    sharding: NamedSharding | None = None,
    looks_after_each_round: bool = False,
) -> Job:
    """The job that the arguments of `fit` describe, or the error that they deserve."""
    _require_rule(rule)
    _require_budgets(steps, epochs, batch_size=batch_size, patience=patience, every=every)
    if isinstance(objective, ValueFunction):
        if data is not None:
            raise ValueError("fit: expected no data, since a value function brings its own")
        objective, data = None, objective
    _require_data(objective, data, validation, batch_size)
    _require_validation(validation, metrics, patience)
    _require_real(params)
    arrays = {
        "params": jax.tree.map(_strong, params),
        "data": None if is_stream(data) else data,
        "validation": validation,
    }
    if isinstance(objective, Objective):
        for examples in (arrays["data"], validation):
            if examples is not None and not isinstance(examples, ValueFunction):
                objective.on(examples)  # raises where these are not examples
    if sharding is None:
        arrays = jax.tree.map(jnp.asarray, arrays)
    else:
        sharding = sharding_of_examples(sharding)
        arrays = placed_for_fit(arrays, objective, batch_size, sharding)
        key = placed(key, everywhere(sharding))
    _require_finite(arrays)
    progress = _with_state(start(rule, arrays["params"], keep_best=patience is not None), state)
    layout = None
    if sharding is not None:
        progress = placed(progress, everywhere(sharding))
        layout = tuple(leaf.sharding for leaf in jax.tree.leaves(progress))
    plan = Plan(
        rule,
        objective,
        tuple((metrics or {}).items()),
        prepare,
        None if batch_size is None else int(batch_size),
        int(every),
        sharding,
        layout,
    )
    if not is_stream(data):
        data = arrays["data"]
        if epochs is not None:
            steps = epochs * plan.source(data, key, 0).steps
    limits = Limits(
        steps=_UNLIMITED if steps is None else int(steps),
        rounds=1 if looks_after_each_round else _UNLIMITED,
        goal=float(goal),
        patience=_UNLIMITED if patience is None else int(patience),
    )
    epochs = None if epochs is None else int(epochs)
    return Job(plan, data, arrays["validation"], key, progress, limits, epochs)


# What is checked ----------------------------------------------------------------------------------


def _require_rule(rule: Any) -> None:
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise TypeError(
            f"fit: expected a rule such as rules.adam(1e-3), got {rule!r}; call it with its rate"
        )


def _require_budgets(steps: int | None, epochs: int | None, **numbers: int | None) -> None:
    if (steps is None) == (epochs is None):
        raise ValueError("fit: expected either steps= or epochs=, got both or neither")
    for name, number in ({"steps": steps, "epochs": epochs} | numbers).items():
        if number is not None and (number != int(number) or number < 1):
            raise ValueError(f"fit: expected {name} to be a whole number above 0, got {number}")


def _require_data(objective: Any, data: Any, validation: PyTree, batch_size: int | None) -> None:
    """An objective needs data; a value function brings them, and a function draws its own."""
    if not isinstance(objective, Objective):
        if objective is not None and data is not None:
            raise ValueError("fit: expected no data, since the function draws its own")
        if validation is not None and not isinstance(validation, ValueFunction):
            raise ValueError("fit: expected validation to be a value function, as the objective is")
    elif data is None:
        raise ValueError("fit: an Objective needs data, (inputs, targets)")
    if batch_size is not None and (is_stream(data) or not isinstance(objective, Objective)):
        raise ValueError("fit: batch_size= cuts arrays of examples; here there are none")


def _require_validation(
    validation: PyTree, metrics: Mapping[str, Metric] | None, patience: int | None
) -> None:
    """Metrics and patience need validation data."""
    if metrics and (validation is None or isinstance(validation, ValueFunction)):
        raise ValueError("fit: metrics need validation data; pass validation=(inputs, targets)")
    if metrics and "loss" in metrics:
        raise ValueError("fit: expected metrics of other names than 'loss', which is always there")
    if patience is not None and validation is None:
        raise ValueError("fit: patience needs validation data; pass validation=")


def _require_real(params: PyTree) -> None:
    if not jax.tree.leaves(params):
        raise ValueError(f"fit: expected parameters to train, got {params}, a tree without leaves")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                "fit: expected real parameters of floating point, got "
                f"params{jax.tree_util.keystr(path)} of {jnp.result_type(leaf)}; cast it, split it "
                "into real and imaginary parts, or keep it out of the parameters"
            )


def _require_finite(arrays: Mapping[str, PyTree]) -> None:
    """Names the array that holds NaN or infinity."""
    if _is_finite(arrays):
        return
    for name, leaf in leaves_by_path(arrays).items():
        bad = ~jnp.isfinite(leaf).ravel()
        if count := int(bad.sum()):
            index = np.unravel_index(int(bad.argmax()), jnp.shape(leaf))
            raise ValueError(
                f"fit: expected finite numbers, got {count} that are NaN or infinite in "
                f"{name}, the first at index {tuple(map(int, index))}"
            )


@devices.jit
def _is_finite(arrays):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays)]).all()


def _with_state(progress: Progress, state: PyTree) -> Progress:
    """The progress that goes on from the state of an earlier fit, if there is one."""
    if state is None:
        return progress
    expected = jax.tree.structure(progress.state)
    if jax.tree.structure(state) != expected:
        raise ValueError(
            f"fit: expected a state of this rule, {expected}, got {jax.tree.structure(state)}; "
            "pass the state of a Fit by the same rule"
        )
    return progress._replace(state=state)


def _strong(leaf: Any) -> Array:
    """An array that is not weakly typed, so that the second call finds what the first compiled."""
    return jnp.asarray(leaf, jnp.result_type(leaf))
