"""What makes a job this very job, as text by which a folder of another one is told.

    shapes       of every leaf of parameters, rule's state, data and validation data
    terms        the key, and the numbers that say how the examples are gone through
    values       digests of these leaves before the first step; a stream has no data
    programs     digests of what is computed: the value function and its gradient, and the look at
                 the validation data

The program of the rule is not among them: its rates may be changed on purpose. Digests hold where
they were made by the same releases on the same kind of device. Elsewhere random numbers, the last
digits of a start, and the way in which JAX writes a program down may be others for the same job, so
that shapes and terms alone are compared, as they are with folders from before there were digests.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from fnn.objective import Objective, ValueFunction
from fnn.programs import digest
from fnn.training.job import Job
from fnn.training.leaves import leaves_by_path, plain
from fnn.training.plan import Plan
from fnn.training.sources import Weighted
from fnn.training.sums import digests_of
from fnn.version import __version__

_DIGESTS = "digests"
_PROGRAMS = {
    "value function": "a value function (model, loss, penalties) of the same program",
    "look": "a look at the validation data (metrics, prepare) by the same program",
}


def identity_of(job: Job) -> dict[str, Any]:
    """What makes a job: every leaf by its path, the terms, and the digests."""
    leaves = leaves_by_path(job.arrays)
    shapes = {
        name: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for name, leaf in leaves.items()
    }
    terms = {
        name: f"{jax.random.key_impl(term)}{plain(term).tolist()}" if _is_array(term) else term
        for name, term in job.terms.items()
    }
    digests = {
        "made by": f"jax {jax.__version__}, fnn {__version__}, {jax.devices()[0].device_kind}",
        "values": digests_of({name: plain(leaf) for name, leaf in leaves.items()}),
        "programs": {name: _digest_of(*program) for name, program in _programs(job).items()},
    }
    return shapes | terms | {_DIGESTS: digests}


def differences_of(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What differs between two jobs: by shapes and terms, or else by digests."""
    differences = [
        f"{name} {stored.get(name, 'absent')}, got {asked.get(name, 'absent')}"
        for name in stored | asked
        if name != _DIGESTS and stored.get(name) != asked.get(name)
    ]
    before, now = stored.get(_DIGESTS), asked[_DIGESTS]
    if differences or before is None or before["made by"] != now["made by"]:
        return differences
    return _other_values(before["values"], now["values"]) + [
        f"{_PROGRAMS[name]}, got {'another' if program else 'one that raises an error'}"
        for name, program in now["programs"].items()
        if before["programs"].get(name) != program
    ]


def _other_values(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The trees whose leaves have other values, each with the first of these leaves."""
    trees: dict[str, list[str]] = {}
    for name, values in now.items():
        if before.get(name) != values:
            trees.setdefault(re.split(r"[\[.]", name)[0], []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)} of the same values, got "
        "others"
        for names in trees.values()
    ]


def _programs(job: Job) -> dict[str, tuple]:
    """The functions that are computed, each with its arguments, as far as these are known."""
    plan, params, computed = job.plan, job.progress.params, {}
    objective: Any = plan.objective
    if objective is None:
        computed["value function"] = _slope_of(lambda value_fn: value_fn), params, job.data
    elif not isinstance(objective, Objective):
        computed["value function"] = _slope_of(objective), params, job.key
    elif (examples := _some_examples(job)) is not None:
        key = job.key if objective.takes_key else None
        slope = _slope_of(lambda data, key: _value_fn(objective, data, key))
        computed["value function"] = slope, params, examples, key
    if job.validation is not None:
        computed["look"] = _look(plan), job.validation, job.progress
    return computed


def _slope_of(make: Callable[..., Any]) -> Callable[..., PyTree]:
    """Value and gradient of the value function that is made of arrays."""
    return lambda params, *arrays: jax.value_and_grad(make(*arrays))(params)


def _value_fn(objective: Objective, data: PyTree, key: Any) -> ValueFunction:
    """The value function of arrays of examples, weighted or not."""
    if isinstance(data, Weighted):
        return objective.on(data.examples, weights=data.weights, key=key)
    return objective.on(data, key=key)


def _look(plan: Plan) -> Callable[..., PyTree]:
    """What is seen of validation data."""
    return lambda validation, progress: plan.evaluation(validation)(progress)


def _some_examples(job: Job) -> PyTree | None:
    """A batch; of a stream the first in a list, or the validation data, which are alike."""
    if job.is_stream:
        is_known = isinstance(job.data, Sequence) and len(job.data) > 0
        batches: Any = job.data
        examples = batches[0] if is_known else job.validation
        return None if isinstance(examples, ValueFunction) else examples
    size = job.plan.batch_size
    return jax.eval_shape(lambda data: jax.tree.map(lambda leaf: leaf[:size], data), job.data)


def _digest_of(fn: Callable[..., PyTree], *args: PyTree) -> str:
    """The digest of a program; none of one that raises, which the step says better."""
    kinds = jax.tree.map(_kind, args)
    try:
        with jax.disable_jit(False):  # or else calls would be written out
            return digest(jax.make_jaxpr(fn)(*kinds))
    except Exception:
        return ""


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape and the dtype of a leaf, wherever it lies."""
    aval = jax.typeof(leaf) if isinstance(leaf, jax.Array) else leaf
    weak = getattr(aval, "weak_type", False)
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf), weak_type=weak)


def _is_array(term: Any) -> bool:
    return isinstance(term, jax.Array | np.ndarray)
