"""The arguments of an estimator: what is wrong with them, and what they stand for.

scikit-learn sets arguments at any time and has them checked by `fit`; every error here is one of
`fit`, and begins with the estimator's name.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fnn import activations, layers, rules
from fnn.interned import interned
from fnn.names import look_up, name_of

Factory = Callable[[int], layers.Layer]
Rule = str | optax.GradientTransformation | Callable[[], optax.GradientTransformation]


def require_arguments(estimator: Any) -> None:
    """Raises where an argument of an estimator is none, by its name; those of names come later."""
    who, given = type(estimator).__name__, estimator.get_params(deep=False)
    for name, (is_right, expected, remedy) in _RIGHT.items():
        if not is_right(given[name]):
            raise ValueError(
                f"{who}: expected {name} to be {expected}, got {given[name]!r}; try {remedy}"
            )


def _is_count(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 1


def _is_number(number: Any, least: float, most: float) -> bool:
    """Whether this is a number between two others, which it may equal."""
    is_real = isinstance(number, Real) and not isinstance(number, bool)
    return is_real and least <= float(number) <= most


def _are_counts(sizes: Any) -> bool:
    is_sequence = isinstance(sizes, Sequence) or getattr(sizes, "ndim", 0) == 1
    return _is_count(sizes) or (is_sequence and all(map(_is_count, sizes)))


_LARGEST, _LEAST = math.nextafter(math.inf, 0), math.nextafter(0.0, 1.0)
_BELOW_ONE = math.nextafter(1.0, 0.0)
_RIGHT: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "hidden_sizes": (_are_counts, "whole numbers above 0", "(16,), or () for a linear model"),
    "activation": (
        lambda x: isinstance(x, str) or callable(x),
        "a name or a function",
        "'tanh', or jax.nn.relu",
    ),
    "model": (
        lambda x: x is None or (callable(x) and not isinstance(x, layers.Layer)),
        "a function from the number of outputs to a layer, or None",
        "lambda outputs: layers.serial(layers.dense(8), layers.dense(outputs))",
    ),
    "learning_rate": (
        lambda x: callable(x) or _is_number(x, _LEAST, _LARGEST),
        "a number above 0, or a schedule",
        "1e-3",
    ),
    "decay": (lambda x: _is_number(x, 0, _LARGEST), "a number from 0 on", "0 for no penalty"),
    "epochs": (_is_count, "a whole number above 0", "100"),
    "batch_size": (
        lambda x: x is None or (isinstance(x, str) and x == "auto") or _is_count(x),
        "a whole number above 0, None or 'auto'",
        "None for all examples",
    ),
    "tolerance": (
        lambda x: x is None or _is_number(x, 0, _BELOW_ONE),
        "a number in [0, 1), or None",
        "0 for all epochs",
    ),
    "patience": (
        lambda x: x is None or _is_count(x),
        "a whole number above 0, or None",
        "None, which stops no fit early",
    ),
    "validation_fraction": (
        lambda x: _is_number(x, _LEAST, _BELOW_ONE),
        "a number above 0 and below 1",
        "0.1",
    ),
}
"""Of each argument what is right, in code and in words, and what to try."""


# What they stand for: equal arguments give the same objects, so nothing is compiled twice ------


def model_of(estimator: Any, k: int, inputs: jax.ShapeDtypeStruct) -> layers.Layer:
    """The network of an estimator, with k outputs for an example."""
    who = type(estimator).__name__
    model = network(*network_arguments(estimator, k))
    if not isinstance(model, layers.Layer):
        raise TypeError(
            f"{who}: expected model({k}) to return a layer, got {type(model).__name__}; try "
            "layers.serial(...), or bridges.from_flax(module) and its like"
        )
    params = jax.eval_shape(model.init, jax.random.key(0), inputs)
    outputs = jax.eval_shape(model.apply, params, inputs)
    if getattr(outputs, "shape", None) != (k,):
        raise ValueError(
            f"{who}: expected model({k}) to answer an example of shape {inputs.shape} with {k} "
            f"numbers, got {jax.tree.map(lambda leaf: leaf.shape, outputs)}; try layers.dense"
            "(outputs) at its end"
        )
    return model


def network_arguments(estimator: Any, k: int) -> tuple:
    """What `network` is called with, checked."""
    sizes, activation = estimator.hidden_sizes, estimator.activation
    hidden = (int(sizes),) if isinstance(sizes, Integral) else tuple(map(int, sizes))
    if estimator.model is None and isinstance(activation, str):
        named(estimator, "activation", activation, _known_activations())
    return hidden, activation, estimator.model, k


@interned
def network(hidden: tuple[int, ...], activation: Any, make: Factory | None, k: int) -> layers.Layer:
    """The network with k outputs."""
    if make is not None:
        return make(k)
    if isinstance(activation, str):
        activation = _known_activations()[activation]
    units = [part for n in hidden for part in (layers.dense(n), layers.elementwise(activation))]
    return layers.serial(*units, layers.dense(k))


@functools.cache
def _known_activations() -> dict[str, Callable]:
    """The activations of JAX and of fnn, functions of one array that keep its shape."""
    own = {name: getattr(activations, name) for name in activations.__all__}
    known = {name: fn for name, fn in vars(jax.nn).items() if callable(fn)} | own
    return {name: fn for name, fn in known.items() if len(_needed(fn)) == 1 and _keeps_shape(fn)}


def _keeps_shape(fn: Callable) -> bool:
    """Whether a function answers three numbers with three numbers."""
    three = jax.ShapeDtypeStruct((3,), jnp.float32)
    try:
        return getattr(jax.eval_shape(fn, three), "shape", None) == three.shape
    except (TypeError, ValueError, AssertionError):  # the last is `glu`'s, of odd sizes
        return False


def rule_of(estimator: Any, auto: str) -> tuple[optax.GradientTransformation, bool]:
    """The rule of an estimator, "auto" being that of a name, and whether it wants mini-batches."""
    rule: Any = estimator.rule
    if isinstance(rule, str):
        make = named(estimator, "rule", auto if rule == "auto" else rule, _known_rules())
        rate = estimator.learning_rate
        return (make(rate), True) if _needed(make) else (make(), False)
    who, remedy = type(estimator).__name__, "a name such as 'adam', or rules.adam(1e-3)"
    expected = f"{who}: expected rule to be a name, a rule or a function without arguments that "
    if callable(rule) and not _is_rule(rule):
        if needed := _needed(rule):
            name = name_of(rule)
            raise TypeError(
                f"{expected}returns one, got {name}, which needs {', '.join(needed)}; try its "
                f"name, {name!r}, with learning_rate=, or functools.partial({name}, ...)"
            )
        rule = rule()
    if not _is_rule(rule):
        raise TypeError(f"{expected}returns one, got {rule!r}; try {remedy}")
    made: Any = rule
    return made, False


def _is_rule(rule: Any) -> bool:
    return hasattr(rule, "init") and hasattr(rule, "update")


@functools.cache
def _known_rules() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The rules that need no argument, or a learning rate alone."""
    made = {
        name: make for name in rules.__all__ if inspect.isfunction(make := getattr(rules, name))
    }
    others = {"plateau", "static_arguments"}
    return {
        name: make
        for name, make in made.items()
        if set(_needed(make)) <= {"learning_rate"} and name not in others
    }


def _needed(fn: Callable) -> list[str]:
    """The arguments that a function cannot be called without."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # built-in callables have no signature
        return []
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


def named(estimator: Any, kind: str, name: str, table: dict[str, Callable]) -> Callable:
    """The entry of a table by its name, or an error that begins with the estimator's."""
    try:
        return look_up(kind, name, table)
    except ValueError as error:
        raise ValueError(f"{type(estimator).__name__}: {error}") from None
