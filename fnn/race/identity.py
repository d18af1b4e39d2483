"""What makes a race this very race beside its terms: data, programs and settings, as digests.

A name says little: the same name may stand for other data or for another rule. So a store keeps
digests of the problem, and of each rule what it was entered with, and a race goes on only where
they are the same. They hold for the releases and the device that the header names. What is not a
part of a jaxpr is not seen: a Python function that is called back.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from fnn import programs
from fnn.problems import Problem
from fnn.race.compiling import Setting, source, traced
from fnn.race.entrants import Entrant
from fnn.training import source_of


def of_problem(problem: Problem) -> dict[str, str]:
    """Digests of all that a problem gives to a race."""
    key = jax.random.key(0)
    params = jax.eval_shape(problem.init, key)

    def slope(params: PyTree, train: PyTree, key: Array) -> PyTree:
        source = source_of(problem.objective, train, key=key)
        return jax.value_and_grad(source.epoch(jnp.int32(0))(jnp.int32(0)))(params)

    return {
        "training data": _digest_of_arrays(problem.train),
        "validation data": _digest_of_arrays(problem.validation),
        "test data": _digest_of_arrays(problem.test),
        "start": _digest(problem.init, key),
        "model and loss": _digest(slope, params, _kinds(problem.train), key),
        "measure": _digest(problem.measure.of, params, _kinds(problem.test)),
    }


def of_entrant(problem: Problem, entrant: Entrant, setting: Setting) -> dict[str, str]:
    """What a rule is entered with; its program is that of a step at a setting that is traced."""

    def step(setting: Setting, params: PyTree, train: PyTree, key: Array) -> PyTree:
        rule = optax.with_extra_args_support(entrant.make(problem, **setting))
        value_fn = source(problem, entrant, train, key).epoch(jnp.int32(0))(jnp.int32(0))
        value, grad = jax.value_and_grad(value_fn)(params)
        state = rule.init(params)
        return rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)

    def program() -> str:
        key = jax.random.key(0)
        params = jax.eval_shape(problem.init, key)
        return _digest(step, traced(setting), params, _kinds(problem.train), key)

    return {
        "space": programs.spelled(entrant.space),
        "defaults": programs.spelled(entrant.defaults),
        "batch": f"{entrant.examples(problem)}",
        "program": "" if entrant.misses(problem) else program(),
    }


def _digest_of_arrays(tree: PyTree) -> str:
    """A digest of the leaves of a tree."""
    return _short(programs.spelled(jax.tree.leaves(tree)))


def _digest(fn: Callable[..., Any], *args: PyTree) -> str:
    """A digest of a function's program; none of one that raises, which the race says better."""
    try:
        with jax.disable_jit(False):  # or else calls would be written out
            return _short(programs.digest(jax.make_jaxpr(fn)(*args)))
    except Exception:
        return ""


def _kinds(tree: PyTree) -> PyTree:
    """The shapes and dtypes of arrays as programs are given them."""
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))


def _short(text: str) -> str:
    """64 bits of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
