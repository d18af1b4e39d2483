"""Problems: what can be raced. Data, a network, a loss, a measure and a budget under one name."""

from collections.abc import Callable, Mapping

from fnn import names
from fnn.problems.classification import digits, iris, moons
from fnn.problems.problem import COSTS as COSTS
from fnn.problems.problem import Budget as Budget
from fnn.problems.problem import Measure as Measure
from fnn.problems.problem import Problem as Problem
from fnn.problems.problem import accuracy as accuracy

PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    problem.__name__: problem for problem in (digits, iris, moons)
}


def get(name: str) -> Problem:
    """The problem of that name, its data loaded.

    Args:
        name: one of `PROBLEMS`; an unknown one raises ValueError with the nearest match.

    Returns:
        The problem.

    Example:
        >>> get("iris").name
        'iris'
    """
    return names.look_up("problem", name, PROBLEMS)()
