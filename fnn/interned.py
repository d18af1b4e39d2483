"""Values that are made by functions: an equal call gives the same object.

JAX keeps a compiled program by the identity of the functions in it. A rule is a pair of functions,
so `fit(rules.adam(1e-3), ...)` in a loop would compile in every turn if each call of `adam` made a
new pair.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")
_MOST = 1024
"""Calls remembered for each function, far more than there are rules in one program."""


def interned(make: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """A function whose equal calls give the same object.

    Calls are equal when their arguments are, numbers of one type and functions by identity, however
    they are passed; lists, trees and `functools.partial` count by what is in them. A call with an
    argument that cannot be hashed, a traced number or an array, makes a new object.

    Args:
        make: a function of its arguments alone.

    Returns:
        The function.

    Example:
        >>> pair = interned(lambda first, second=2: [first, second])
        >>> pair(1) is pair(first=1, second=2), pair(1) is pair(1.0)
        (True, False)
        >>> pair(functools.partial(max, 1)) is pair(functools.partial(max, 1))
        True
    """
    signature = inspect.signature(make)

    @functools.lru_cache(_MOST)
    def remembered(treedef: Any, leaves: tuple, types: tuple) -> _Value:
        del types  # 1, 1.0 and True are equal, and not the same
        args, kwargs = jax.tree.unflatten(treedef, leaves)
        call: Any = make
        return call(*args, **kwargs)

    @functools.wraps(make)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        try:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            leaves, treedef = jax.tree.flatten(_opened((bound.args, bound.kwargs)))
            key = treedef, tuple(leaves), tuple(map(type, leaves))
            hash(key)
        except (TypeError, ValueError):  # not hashable, or no call of it, as it says itself
            return make(*args, **kwargs)
        return remembered(*key)

    return call


def _opened(tree: Any) -> Any:
    """A tree whose partial functions are trees of their arguments, and do the same."""

    def open_one(leaf: Any) -> Any:
        if type(leaf) is not functools.partial:
            return leaf
        return jax.tree_util.Partial(leaf.func, *_opened(leaf.args), **_opened(leaf.keywords))

    return jax.tree.map(open_one, tree)
