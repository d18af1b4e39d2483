"""A job: what `fit` was asked for, checked before anything runs."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Key, PyTree

from fnn import devices
from fnn.arrays import as_arrays
from fnn.batches import guarded, require_hashable, require_weights
from fnn.dtypes import widest
from fnn.objective import Objective, ValueFunction, penalty
from fnn.training.callbacks import Callback
from fnn.training.convexity import warn_of_negative_curvature
from fnn.training.history import History
from fnn.training.leaves import leaves_by_path
from fnn.training.loop import Limits, Progress, has_outlook
from fnn.training.mistakes import require_labels, require_prepared, warn_of_mistakes
from fnn.training.placement import everywhere, placed, placed_for_fit, sharding_of_examples
from fnn.training.plan import Plan, start
from fnn.training.snapshot import Position, Snapshot
from fnn.training.sources import Metric, Weighted
from fnn.training.streams import MOST, is_stream
from fnn.training.trail import Marks, marks_of

_UNLIMITED = np.iinfo(np.int32).max
_FEW = 2**20  # numbers, at which NumPy looks in 2 ms; a program for them compiles in 50


class Job(NamedTuple):
    """A training that can begin: its arrays lie where they belong."""

    plan: Plan
    data: PyTree | Iterable[PyTree]  # arrays, a value function, None, or a stream
    validation: PyTree
    key: Key[Array, ""] | None
    progress: Progress  # before the first step
    limits: Limits
    epochs: int | None  # of a stream, whose length nobody knows
    marks: Marks | None = None  # where a callback looks between two segments; None if it does not

    @property
    def is_stream(self) -> bool:
        """Whether the data come as batches one after the other."""
        return is_stream(self.data)

    @property
    def keeps_marks(self) -> bool:
        """Whether the loop keeps what a callback is to see within segments."""
        return self.marks is not None and self.marks.room > 0

    @property
    def round_steps(self) -> int:
        """The steps in a round, of data that are no stream."""
        return self.plan.every * self.plan.source(self.data, self.key, 0).steps

    @property
    def is_noisy(self) -> bool:
        """Whether values differ from step to step though the parameters stay."""
        return self.is_stream or self.key is not None or self.plan.batch_size is not None

    def is_through(self, here: Snapshot) -> bool:
        """Whether all the steps or epochs asked for were taken."""
        is_last = self.epochs is not None and here.position.passes >= self.epochs
        return is_last or here.steps >= self.limits.steps

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


class Request(NamedTuple):
    """What `fit` was asked for, as it was written."""

    rule: optax.GradientTransformation
    objective: Objective | ValueFunction | Callable[[Array], ValueFunction] | None
    params: PyTree
    data: PyTree | Iterable[PyTree] = None
    weights: Any = None
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    key: Key[Array, ""] | None = None
    validation: PyTree = None
    metrics: Mapping[str, Metric] | None = None
    patience: int | None = None
    goal: float = -np.inf
    tolerance: float | None = None
    every: int = 1
    prepare: Callable[[PyTree], PyTree] | None = None
    state: PyTree = None
    sharding: NamedSharding | None = None
    callback: Callback | None = None


def job_of(request: Request) -> Job:
    """The job that is asked for, or the error that the request deserves."""
    request = _checked(request)
    arrays, key, sharding = _placed(request)
    require_finite(arrays)
    keeps_best = request.patience is not None
    progress = start(request.rule, arrays["params"], keep_best=keeps_best)
    progress = _with_state(progress, request.state)
    layout = None
    if sharding is not None:
        progress = placed(progress, everywhere(sharding))
        layout = tuple(leaf.sharding for leaf in jax.tree.leaves(progress))
    plan = Plan(
        request.rule,
        request.objective,
        tuple((request.metrics or {}).items()),
        request.prepare,
        None if request.batch_size is None else int(request.batch_size),
        int(request.every),
        sharding,
        layout,
    )
    data = request.data if is_stream(request.data) else arrays["data"]
    epochs = None if request.epochs is None else int(request.epochs)
    limits = Limits(
        steps=_most_steps(request, plan, data, key),
        rounds=_UNLIMITED,
        goal=float(request.goal),
        patience=_UNLIMITED if request.patience is None else int(request.patience),
        tolerance=_tolerance(request, progress),
    )
    job = Job(plan, data, arrays["validation"], key, progress, limits, epochs)
    marks = _marks(request.callback, job)
    limits = limits if marks is None else limits._replace(mark=min(marks.steps, _UNLIMITED))
    return job._replace(marks=marks, limits=limits)


def _marks(callback: Callback | None, job: Job) -> Marks | None:
    """The marks at which a callback looks, other than at the ends of segments."""
    if callback is None or callback.seconds is not None:
        return None
    if not job.is_stream:
        return marks_of(callback.steps, job.round_steps, False, job.progress)
    if callback.steps is None:  # rounds of a stream end where segments do
        return None
    return marks_of(callback.steps, MOST, True, job.progress)


def _checked(request: Request) -> Request:
    """The request, a value function in the place of the data; or the error that it deserves."""
    _require_rule(request.rule)
    _require_budgets(
        request.steps,
        request.epochs,
        batch_size=request.batch_size,
        patience=request.patience,
        every=request.every,
    )
    _require_tolerance(request.tolerance, request.data)
    _require_hashable(request.objective)
    request = _understood(request)
    if isinstance(request.objective, ValueFunction):
        if request.data is not None:
            raise ValueError("fit: expected no data, since a value function brings its own")
        request = request._replace(objective=None, data=request.objective)
    objective, data, validation = request.objective, request.data, request.validation
    _require_data(objective, data, validation, request.batch_size)
    weights = _weights(request)
    if weights is not None:  # what weighs nothing is never looked at
        data = _filled(data, weights)
        request = request._replace(data=data)
    _require_validation(validation, request.metrics, request.patience)
    _require_real(request.params)
    _require_key(request.key)
    given = {"params": request.params, "data": None if is_stream(data) else data}
    given |= {"validation": validation, "weights": weights}
    _require_concrete(given)
    _require_range(given)
    if isinstance(objective, Objective):
        _require_meaning(request, objective)
        if weights is not None:
            request = request._replace(data=Weighted(data, weights))
        if not is_stream(data):
            data = objective.on(data, weights=weights)
    if isinstance(data, ValueFunction):
        warn_of_negative_curvature(request.rule, data, request.params)
    return request


def _understood(request: Request) -> Request:
    """The request, a plain function of the parameters as the value function that it is."""
    objective, data = request.objective, request.data
    if isinstance(objective, Objective):
        if isinstance(data, list) and len(data) == 2 and all(hasattr(x, "shape") for x in data):
            raise ValueError(
                "fit: expected (inputs, targets), or an iterable of such pairs, got a list of two "
                "arrays; try a tuple"
            )
        given = {"data": data, "validation": request.validation}
        return request._replace(**{name: _arrays(objective, x) for name, x in given.items()})
    if isinstance(objective, ValueFunction) or not callable(objective):
        return request
    if data is None and request.key is None and _is_value(objective, request.params):
        return request._replace(objective=_penalty_of(objective))
    return request  # it draws value functions from keys


def _arrays(objective: Objective, examples: Any) -> Any:
    """Examples as arrays that JAX knows; a stream, whose batches come later, as it is."""
    if examples is None or is_stream(examples) or isinstance(examples, ValueFunction):
        return examples
    (block,) = Objective(objective.model, objective.loss).on(examples).blocks
    return block.inputs if objective.loss is None else (block.inputs, block.targets)


def _weights(request: Request) -> Array | None:
    """The weights of the examples, or the error that they deserve."""
    if request.weights is None:
        return None
    if not isinstance(request.objective, Objective) or is_stream(request.data):
        what = "a stream of batches" if is_stream(request.data) else "a value function"
        raise ValueError(
            f"fit: expected weights with an Objective and arrays, got weights with {what}; try "
            "objective.on(batch, weights=...), for several blocks, or for a loop over rule.update"
        )
    weights = as_arrays("fit", "weights", request.weights)
    return require_weights("fit", weights, len(jax.tree.leaves(request.data)[0]))


def _filled(data: PyTree, weights: Array) -> PyTree:
    """Data with another example in the place of what weighs nothing."""
    if devices.is_traced((data, weights)) or bool(jnp.all(weights > 0)):
        return data
    fill, is_real = guarded(weights > 0), np.asarray(weights > 0)

    def filled(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return fill(leaf)
        rows = np.where(is_real, np.arange(len(leaf)), np.argmax(is_real))
        return leaf[rows]  # still NumPy's, whose range is looked at

    return jax.tree.map(filled, data)


def _is_value(fn: Callable[[PyTree], Any], params: PyTree) -> bool:
    """Whether a function of the parameters gives a number."""
    try:
        value = jax.eval_shape(fn, params)
    except Exception:  # it wants a key, and is told so
        return False
    return isinstance(value, jax.ShapeDtypeStruct) and value.shape == ()


@functools.lru_cache(maxsize=256)
def _penalty_of(fn: Callable[[PyTree], Array]) -> ValueFunction:
    """One value function for each function, so that a second fit finds what was compiled."""
    return penalty(fn)


def _require_meaning(request: Request, objective: Objective) -> None:
    """Looks for what fits together and means something else, see `mistakes`."""
    data = None if is_stream(request.data) else request.data
    validation, params = request.validation, request.params
    for examples in (data, validation):
        if examples is not None and not isinstance(examples, ValueFunction):
            require_labels(objective, params, examples)
    require_prepared(params, request.key, validation, request.prepare)
    if data is not None:
        warn_of_mistakes(objective, params, data, request.key, request.batch_size)


def _placed(
    request: Request,
) -> tuple[dict[str, PyTree], Key[Array, ""] | None, NamedSharding | None]:
    """The arrays and the key where they belong, and how the examples are split."""
    arrays = {
        "params": jax.tree.map(strong, request.params),
        "data": None if is_stream(request.data) else request.data,
        "validation": request.validation,
    }
    if request.sharding is None:
        return jax.tree.map(jnp.asarray, arrays), request.key, None
    sharding = sharding_of_examples(request.sharding)
    arrays = placed_for_fit(arrays, request.objective, request.batch_size, sharding)
    return arrays, placed(request.key, everywhere(sharding)), sharding


def _most_steps(request: Request, plan: Plan, data: PyTree, key: Array | None) -> int:
    """The number of steps asked for; of a stream's epochs nobody knows it."""
    if request.steps is not None:
        return int(request.steps)
    if request.epochs is None or is_stream(data):
        return _UNLIMITED
    return int(request.epochs) * plan.source(data, key, 0).steps


def _tolerance(request: Request, progress: Progress) -> float:
    """The tolerance asked for; by default what rounding leaves, where a step sees all examples."""
    if request.tolerance is not None:
        return float(request.tolerance) or -1.0
    draws = request.objective is not None and not isinstance(request.objective, Objective)
    if draws or request.batch_size is not None or is_stream(request.data):
        return -1.0
    # A rule without a model is judged by its gradient alone: it stops where that all but vanished.
    narrow = widest(jnp.float32, *jax.tree.leaves(progress.params))
    dtype = narrow if has_outlook(progress.state) else jnp.float64
    return float(jnp.finfo(dtype).eps)


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


def _require_tolerance(tolerance: float | None, data: Any) -> None:
    """A tolerance is a number from 0 to 1, judged where a round takes its data from arrays."""
    if tolerance is None:
        return
    if not 0 <= tolerance < 1:
        raise ValueError(
            f"fit: expected tolerance in [0, 1), got {tolerance}; try 1e-8, or 0 to take all steps"
        )
    if tolerance and is_stream(data):
        raise ValueError(
            "fit: a tolerance is judged on arrays, got a stream of batches; try a goal=, or "
            "patience= with validation data"
        )


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
        name = f"params{jax.tree_util.keystr(path)}"
        try:
            dtype = jnp.result_type(leaf)
        except (TypeError, ValueError):
            raise TypeError(
                f"fit: expected parameters that are arrays, got {name} of "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}; keep what is no array out of "
                "them, of an equinox module by eqx.partition(module, eqx.is_inexact_array)"
            ) from None
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"fit: expected real parameters of floating point, got {name} of {dtype}; cast "
                "it, split it into real and imaginary parts, or keep it out of the parameters"
            )


def _require_hashable(objective: Any) -> None:
    """Functions are told apart by identity, or by their hash."""
    if isinstance(objective, Objective):
        require_hashable("fit", objective.model, objective.loss)
    elif not isinstance(objective, ValueFunction):
        require_hashable("fit", objective)


def _require_key(key: Any) -> None:
    if key is not None and not (isinstance(key, jax.Array) and _is_key(key)):
        raise TypeError(f"fit: expected a key, got {key!r}; try key=jax.random.key(0)")


def _is_key(key: jax.Array) -> bool:
    """Whether this is one key, of the new kind or of the old one, two whole numbers."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.shape == ()
    return key.dtype == jnp.uint32 and key.ndim == 1


def _require_range(arrays: Mapping[str, PyTree]) -> None:
    """Names the array of NumPy whose numbers JAX's narrower dtype cannot hold."""
    for name, leaf in leaves_by_path(arrays).items():
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != "f" or not leaf.size:
            continue
        dtype = jnp.result_type(leaf)
        if dtype.itemsize >= leaf.dtype.itemsize:
            continue
        size, least, most = (
            max(leaf.max(), -leaf.min()),
            jnp.finfo(dtype).tiny,
            jnp.finfo(dtype).max,
        )
        if most < size < np.inf or 0 < size < least:
            raise ValueError(
                f"fit: expected numbers that {dtype} holds, from {float(least):.2g} to "
                f"{float(most):.2g}, got {leaf.dtype} of size {size:.2g} in {name}; try other "
                "units, or jax.config.update('jax_enable_x64', True)"
            )


def _require_concrete(arrays: Mapping[str, PyTree]) -> None:
    """`fit` is a loop of Python around compiled segments: it cannot be traced itself."""
    if devices.is_traced(arrays):
        raise TypeError(
            "fit: expected numbers, got traced values: fit cannot be called inside jax.jit, "
            "jax.vmap or jax.grad; try fnn.fits for many trainings at once, curvature.implicit for "
            "derivatives of a solution, fnn.training.advance, the compiled loop within fit, or a "
            "loop over rule.update"
        )


def require_finite(arrays: Mapping[str, PyTree]) -> None:
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


def _is_finite(arrays: Mapping[str, PyTree]) -> bool:
    """Whether all numbers are; NumPy looks at few, for which a program is not worth compiling."""
    leaves = jax.tree.leaves(arrays)
    is_here = jax.default_backend() == "cpu" and all(
        getattr(leaf, "is_fully_addressable", True) for leaf in leaves
    )
    if not is_here or sum(map(np.size, leaves)) > _FEW:
        return bool(_are_finite(leaves))
    return all(
        np.isfinite(leaf).all()
        for leaf in leaves
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )


@devices.jit
def _are_finite(leaves: list[Array]) -> Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()


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
    best = None if progress.best is None else (progress.params, state)
    return progress._replace(state=state, best=best)


def strong(leaf: Any) -> Array:
    """An array that is not weakly typed, so that the second call finds what the first compiled."""
    return jnp.asarray(leaf, jnp.result_type(leaf))
