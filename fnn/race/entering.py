"""How rules enter a race: by name, from another package, from a file of yours, or as they are.

    "adam"                  one of `ENTRANTS`
    "optax.contrib.muon"    what a package has under that name
    "my_rules.py"           all rules that a file defines
    Entrant(...)            with a space and a batch of its own
    optax.adam(1e-3)        as it is, with nothing to tune

A package or file has under a name an `Entrant`, a transformation, or a function that returns one.
The `learning_rate` of such a function is tuned, where it takes one, over two decades around its own
default, or over the space of `adam`, and not where its default is None: the rule finds its own. All
else has its defaults. Of a file's functions, those of a `learning_rate` are rules. Names that begin
with an underscore are the file's own.

Schedule-free rules of optax take their gradients at other parameters than the average that they are
judged by. Such a transformation, and what such a function returns, races as its average.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
import optax.contrib
from jaxtyping import PyTree

from fnn import names
from fnn.problems import Problem
from fnn.race.entrants import ENTRANTS, Entrant, entrant

Rule = Entrant | optax.GradientTransformation | str
"""What can enter a race."""


def entering(rules: Sequence[Rule] | Mapping[str, Rule]) -> list[Entrant]:
    """The entrants that rules of any kind become.

    Args:
        rules: entrants, transformations, and names as above; or the same under names of yours,
            save files of several rules. In a sequence a transformation is called by its place,
            rule-1. A pair in the space of an entrant is the ends of a logarithmic scale, which the
            search may widen: a share, such as a momentum, needs `Linear`.

    Returns:
        The entrants, those of a file in the order in which it defines them.

    Raises:
        ValueError: for an unknown name, a file without rules or with an error, and anything else;
            also if two have the same name, or there are none.

    Example:
        >>> [one.name for one in entering(["adam", "optax.contrib.muon", optax.sgd(0.1)])]
        ['adam', 'optax.contrib.muon', 'rule-3']
        >>> entering({"mine": optax.sgd(0.1)})[0].name
        'mine'
    """
    if isinstance(rules, str | optax.GradientTransformation):  # sequences, too
        raise ValueError(f"race: expected rules in a list, got one, {_said(rules)}; try [...]")
    if isinstance(rules, Mapping):
        entrants = [_entrant(name, rule) for name, rule in rules.items()]
    else:
        entrants = [
            one
            for place, rule in enumerate(rules, start=1)
            for one in (_named(rule) if isinstance(rule, str) else [_entrant(None, rule, place)])
        ]
    called = [one.name for one in entrants]
    twice = [name for name in dict.fromkeys(called) if called.count(name) > 1]
    if twice or not called:
        got = f"{', '.join(twice)} twice" if twice else "none"
        raise ValueError(
            f"race: expected rules with names of their own, got {got}; try a list of names, or a "
            "mapping {'mine': optax.adam(1e-3)}"
        )
    return entrants


def _entrant(name: str | None, rule: object, place: int = 1) -> Entrant:
    """The entrant that a rule of yours becomes."""
    if isinstance(rule, Entrant):
        return rule if name is None else rule._replace(name=name)
    if isinstance(rule, optax.GradientTransformation):
        return _fixed(f"rule-{place}" if name is None else name, rule)
    if isinstance(rule, str):
        one, *others = _named(rule)
        if others:
            raise ValueError(
                f"race: expected one rule under the name {name}, got {1 + len(others)} in {rule}; "
                f"try a list, [{rule!r}]"
            )
        return _entrant(name, one)
    raise ValueError(
        f"race: expected a rule's name, an Entrant or an optax transformation, got {_said(rule)}; "
        "try Entrant('mine', lambda problem: optax.adam(1e-3))"
    )


def _fixed(name: str, rule: optax.GradientTransformation) -> Entrant:
    """The entrant of a transformation that is there already."""
    return Entrant(name, lambda problem: _judged_by_its_average(problem, rule))


def _named(name: str) -> list[Entrant]:
    """The entrants of a name, several where it is that of a file."""
    if name.endswith(".py"):
        return _of_file(Path(name))
    if name in ENTRANTS or "." not in name:
        return [entrant(name)]
    found = _looked_up(name)
    if isinstance(found, Entrant | optax.GradientTransformation):
        return [_entrant(name, found)]
    if callable(found):
        return [_made(name, found)]
    raise ValueError(
        f"{name}: expected a transformation, or a function that returns one, got {_said(found)}"
    )


def _looked_up(name: str) -> Any:
    """What a package has under a dotted name."""
    package, *parts = name.split(".")
    path, found = package, _imported(package)
    if found is None:
        raise ValueError(
            f"{name}: expected a package that is installed, got {package!r}; try to install it, or "
            "a file my_rules.py"
        )
    for part in parts:
        inside = getattr(found, part, None)
        if inside is None and inspect.ismodule(found):
            inside = _imported(f"{path}.{part}")
        if inside is None:
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"did you mean '{path}.{near[0]}'?" if near else f"try one of dir({path})"
            raise ValueError(f"{name}: expected a name of {path}, got {part!r}; {hint}")
        path, found = f"{path}.{part}", inside
    return found


def _imported(path: str) -> Any:
    """The module, or None where there is none; what it raises is told in a ValueError."""
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            return None
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def _made(name: str, factory: Callable[..., Any]) -> Entrant:
    """The entrant of a function that returns a transformation, its learning rate tuned."""
    parameters = inspect.signature(factory).parameters
    needed = [
        one.name
        for one in parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if set(needed) - {"learning_rate"}:
        raise ValueError(
            f"{name}: expected a function that needs at most a learning_rate, got one that needs "
            f"{', '.join(needed)}; try a file my_rules.py with mine = Entrant('mine', lambda "
            "problem, learning_rate: ..., {'learning_rate': (1e-3, 1e-1)})"
        )

    def make(problem: Problem, **setting: Any) -> optax.GradientTransformation:
        rule = factory(**setting)
        if not isinstance(rule, optax.GradientTransformation):
            raise TypeError(f"{name}: expected an optax transformation of it, got {_said(rule)}")
        return _judged_by_its_average(problem, rule)

    if "learning_rate" not in parameters or parameters["learning_rate"].default is None:
        return Entrant(name, make)
    # Two decades around the function's own default, as wide as the other spaces are.
    own = parameters["learning_rate"].default
    if isinstance(own, int | float) and own > 0:
        rates = {"learning_rate": (own / 10, own * 10)}, {"learning_rate": float(own)}
    else:
        rates = ENTRANTS["adam"].space, ENTRANTS["adam"].defaults
    return Entrant(name, make, *rates)


def _of_file(path: Path) -> list[Entrant]:
    """The rules that a Python file defines: all in it whose names no underscore begins."""
    found, entrants = names.defined_in(path, "rules"), []
    for name, thing in found.items():
        if name.startswith("_"):
            continue
        if isinstance(thing, Entrant):
            entrants.append(thing)
        elif isinstance(thing, optax.GradientTransformation):
            entrants.append(_fixed(name, thing))
        elif _takes_a_rate(thing) and thing.__module__ == found["__name__"]:
            entrants.append(_made(name, thing))
    if not entrants:
        raise ValueError(
            f"{path}: expected a file that defines rules by name, Entrants, optax transformations "
            "or functions of a learning_rate that return one, got none; try mine = "
            "optax.adam(1e-3)"
        )
    return entrants


def _takes_a_rate(thing: object) -> bool:
    """Whether it is a function of a learning rate; schedules and other parts are not."""
    return inspect.isfunction(thing) and "learning_rate" in inspect.signature(thing).parameters


def _said(thing: object) -> str:
    """What a thing is."""
    return repr(thing) if isinstance(thing, str) else f"a {type(thing).__name__}"


# Schedule-free rules ------------------------------------------------------------------------------


class _Averaged(NamedTuple):
    """The state of a rule that is judged by its average.

    Attributes:
        state: the rule's own.
        at: where it takes its gradients.
    """

    state: Any
    at: PyTree


def _judged_by_its_average(
    problem: Problem, rule: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The same rule; a schedule-free one with its average as the parameters, as its authors ask."""
    params = jax.eval_shape(problem.init, jax.random.key(0))
    if _schedule_free(jax.eval_shape(rule.init, params)) is None:
        return rule
    inner = optax.with_extra_args_support(rule)

    def init(params: PyTree) -> _Averaged:
        return _Averaged(inner.init(params), params)

    def update(
        updates: PyTree, state: _Averaged, params: PyTree, *, value_fn: Callable, **extra_args: Any
    ) -> tuple[PyTree, _Averaged]:
        del updates, extra_args  # they are of the average
        value, grad = jax.value_and_grad(value_fn)(state.at)
        about = {"value": value, "grad": grad, "value_fn": value_fn}
        updates, own = inner.update(grad, state.state, state.at, **about)
        at = optax.apply_updates(state.at, updates)
        average = optax.contrib.schedule_free_eval_params(_schedule_free(own), at)
        return jax.tree.map(lambda new, old: new - old, average, params), _Averaged(own, at)

    bare: Any = init, update
    return optax.GradientTransformationExtraArgs(*bare)


def _schedule_free(state: Any) -> Any:
    """The part of a rule's state that is a schedule-free one's, or None."""

    def is_one(part: object) -> bool:
        return isinstance(part, optax.contrib.ScheduleFreeState)

    return next(filter(is_one, jax.tree.leaves(state, is_leaf=is_one)), None)
