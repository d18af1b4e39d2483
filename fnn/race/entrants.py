"""The entrants of a race: rules, the spaces of their hyperparameters, and their batches.

The space of every hyperparameter spans two decades, so that no rule is tuned harder than another,
and the usual value of the field is tried wherever it lies.
Rules that judge a step by the value that it leads to take all examples: on one mini-batch they
would minimize noise. Conjugate gradients solve the systems that have too many unknowns to be
factored in every step (10 outputs of 1000 examples are 10,000 rows).
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnn import curvature, names, rules, solvers
from fnn.objective import Block
from fnn.problems import Problem
from fnn.race.spaces import Range, Value

ALL = sys.maxsize
"""The batch of rules that take all examples."""
FACTORED = 600
"""The most unknowns of a system that is factored in every step, which takes 7e7 flops (n^3 / 3)."""
DENSE = 3000
"""The most parameters of a rule that keeps a matrix of all of them, 72 megabytes in float64."""
ITERATIONS = 20
"""Iterations of conjugate gradients in a step, each of them a product with the curvature."""


class Entrant(NamedTuple):
    """A rule, its hyperparameters and its batches.

    Attributes:
        name: its name.
        make: `make(problem, **setting)` returns the rule. The numbers in the setting may be traced,
            save those of static ranges. `problem.budget` says how long the run is: its unit is
            "steps", and its amount may be traced.
        space: the range of each hyperparameter, see `spaces`; a pair is the ends of a logarithmic
            scale, which a search may widen, so that a share, such as a momentum, needs `Linear`.
        defaults: the setting of races without tuning, from which frameworks and papers start, and
            the first one that is tried where there is tuning. A default may lie outside of its
            range.
        batch: the fewest examples in a step; the problem's mini-batch takes its place where that
            has more, and all examples where there are fewer, as with `ALL`.
        needs: functions that return what a problem lacks, or None.

    Example:
        >>> from fnn.race import Log, OneOf
        >>> def falling(problem, peak, steps_up):
        ...     shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps_up, decay_steps=100)
        ...     steps = problem.budget.amount  # a tracer: the schedule is stretched over the run
        ...     return rules.adam(lambda count: peak * shape(100 * count / steps))
        >>> space = {"peak": Log(1e-3, 1e-1), "steps_up": OneOf((0, 5, 20))}
        >>> entrant = Entrant("falling_adam", falling, space, {"peak": 1e-3, "steps_up": 5})
    """

    name: str
    make: Callable[..., optax.GradientTransformation]
    space: Mapping[str, Range | tuple[float, float]] = {}
    defaults: Mapping[str, Value] = {}
    batch: int = 1
    needs: tuple[Callable[[Problem], str | None], ...] = ()

    def examples(self, problem: Problem) -> int:
        """The number of examples of a problem in a step; 1 where it has a value function.

        Args:
            problem: the problem.

        Returns:
            Their number.
        """
        return examples_in_a_step(problem, self.batch)

    def misses(self, problem: Problem) -> str | None:
        """What the rule misses in a problem.

        Args:
            problem: the problem.

        Returns:
            Its name, or None where the rule can take part.
        """
        return next(filter(None, (need(problem) for need in self.needs)), None)


def examples_in_a_step(problem: Problem, fewest: int) -> int:
    """The number of examples of a problem in a step of an entrant whose `batch` is `fewest`."""
    if problem.objective is None:
        return 1
    most = len(jax.tree.leaves(problem.train)[0])
    return min(most, max(fewest, problem.batch_size or most))


def entrant(name: str) -> Entrant:
    """The entrant of that name.

    Args:
        name: one of `ENTRANTS`; an unknown one raises ValueError with the nearest match.

    Returns:
        The entrant.
    """
    return names.look_up("rule", name, ENTRANTS)


# What problems have -------------------------------------------------------------------------------


def examples(problem: Problem) -> str | None:
    """What a rule misses that needs examples of a model, not a value function; None if nothing."""
    return "examples in place of a value function" if problem.objective is None else None


def residuals(problem: Problem) -> str | None:
    """What a rule misses that needs a model and a loss, not a function alone; None if nothing."""
    if problem.objective is not None:
        return None
    blocks = (term.block for term in problem.train.terms)
    return None if any(isinstance(b, Block) for b in blocks) else "residuals, a model with its loss"


def few_parameters(problem: Problem) -> str | None:
    """What a rule misses that keeps a matrix of all parameters; None if nothing."""
    size = parameters_of(problem)
    return f"at most {DENSE} parameters, and there are {size}" if size > DENSE else None


def one_step(problem: Problem) -> str | None:
    """What a rule misses that makes the whole Hessian in each step; None if nothing."""
    amount, unit = problem.budget
    least = 2 * parameters_of(problem)  # a product with it for every parameter, two gradients each
    if (
        unit != "gradients" or not amount < least <= 2 * solvers.DENSE
    ):  # products alone serve larger ones
        return None
    return f"{least} gradients for its first step, and there are {amount:g}"


def parameters_of(problem: Problem) -> int:
    """The number of parameters."""
    params = jax.eval_shape(problem.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


# The rules ----------------------------------------------------------------------------------------


def _plain(rule: Callable[..., Any]) -> Callable[..., optax.GradientTransformation]:
    """A rule that needs to know nothing of the problem."""
    return lambda _, **setting: rule(**setting)


def _solved(rule: Callable[..., Any], batch: int) -> Callable[..., optax.GradientTransformation]:
    """A rule that factors small systems, and solves large ones by conjugate gradients."""

    def make(problem: Problem, **setting: Any) -> optax.GradientTransformation:
        return rule(solver=_solver(problem, batch), **setting)

    return make


def _solver(problem: Problem, batch: int) -> solvers.Solver | None:
    """Conjugate gradients for a large system; None leaves a small one to the rule."""
    params = jax.eval_shape(problem.init, jax.random.key(0))
    unknowns = parameters_of(problem)
    if problem.objective is not None:
        inputs = problem.train if problem.objective.loss is None else problem.train[0]
        x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], jnp.result_type(a)), inputs)
        outputs = jax.eval_shape(problem.objective.model, params, x)
        rows = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(outputs))
        unknowns = min(unknowns, rows * examples_in_a_step(problem, batch))
    return None if unknowns <= FACTORED else solvers.conjugate_gradients(ITERATIONS)


def _structured(rule: Callable[..., Any]) -> Callable[..., optax.GradientTransformation]:
    """A rule that must know the structure of the model."""

    def make(problem: Problem, **setting: Any) -> optax.GradientTransformation:
        params = jax.eval_shape(problem.init, jax.random.key(0))
        objective: Any = problem.objective
        inputs = problem.train if objective.loss is None else problem.train[0]
        x = jax.tree.map(lambda a: a[0], inputs)
        return rule(curvature.structure(objective.model, params, x), **setting)

    return make


_KRONECKER = 128
"""The fewest examples in a step of K-FAC, which estimates its factors from the step's batch."""
_DAMPED = {"damping": (1e-2, 1e0)}
_LIGHTLY_DAMPED = {"damping": (1e-4, 1e-2)}

ENTRANTS: Mapping[str, Entrant] = {
    entrant.name: entrant
    for entrant in (
        Entrant("sgd", _plain(rules.sgd), {"learning_rate": (3e-2, 3e0)}, {"learning_rate": 1e-1}),
        Entrant(
            "momentum", _plain(rules.momentum), {"learning_rate": (1e-2, 1e0)},
            {"learning_rate": 1e-2},
        ),
        Entrant(
            "nesterov", _plain(rules.nesterov), {"learning_rate": (1e-2, 1e0)},
            {"learning_rate": 1e-2},
        ),
        Entrant(
            "adagrad", _plain(rules.adagrad), {"learning_rate": (1e-2, 1e0)},
            {"learning_rate": 1e-2},
        ),
        Entrant(
            "rmsprop", _plain(rules.rmsprop), {"learning_rate": (3e-4, 3e-2)},
            {"learning_rate": 1e-3},
        ),
        Entrant(
            "adam", _plain(rules.adam), {"learning_rate": (1e-3, 1e-1)}, {"learning_rate": 1e-3}
        ),
        Entrant(
            "adamw", _plain(rules.adamw), {"learning_rate": (1e-3, 1e-1)}, {"learning_rate": 1e-3}
        ),
        Entrant(
            "shampoo", _plain(rules.shampoo), {"learning_rate": (1e-3, 1e-1)},
            {"learning_rate": 1e-3},
        ),
        Entrant(
            "soap", _plain(rules.soap), {"learning_rate": (1e-3, 1e-1)}, {"learning_rate": 3e-3}
        ),
        Entrant(
            "rprop", _plain(rules.rprop), {"learning_rate": (1e-4, 1e-2)},
            {"learning_rate": 1e-2}, batch=ALL,
        ),
        Entrant("lbfgs", _plain(optax.lbfgs), batch=ALL),
        Entrant("bfgs", _plain(rules.bfgs), batch=ALL, needs=(few_parameters,)),
        Entrant("sr1", _plain(rules.sr1), batch=ALL, needs=(few_parameters,)),
        Entrant("newton", _plain(rules.newton), _DAMPED, batch=ALL, needs=(one_step,)),
        Entrant(
            "saddle_free_newton", _plain(rules.saddle_free_newton), _DAMPED, batch=ALL,
            needs=(one_step,),
        ),
        Entrant(
            "trust_region_newton", _plain(rules.trust_region_newton), batch=ALL, needs=(one_step,)
        ),
        Entrant("cubic_newton", _plain(rules.cubic_newton), batch=ALL, needs=(one_step,)),
        Entrant(
            "gauss_newton", _solved(rules.gauss_newton, ALL), _LIGHTLY_DAMPED, batch=ALL,
            needs=(residuals,),
        ),
        Entrant(
            "levenberg_marquardt", _solved(rules.levenberg_marquardt, ALL), _LIGHTLY_DAMPED,
            batch=ALL, needs=(residuals,),
        ),
        Entrant(
            "bayesian_levenberg_marquardt", _plain(rules.bayesian_levenberg_marquardt),
            batch=ALL, needs=(residuals, few_parameters),
        ),
        Entrant(
            "hessian_free", _plain(rules.hessian_free), _DAMPED, batch=ALL, needs=(residuals,)
        ),
        Entrant(
            "spring", _plain(rules.spring),
            {"learning_rate": (1e-2, 1e0), "damping": (1e-3, 1e-1)},
            {"learning_rate": 1e-1}, needs=(residuals,),
        ),
        Entrant("kfac", _structured(rules.kfac), _DAMPED, batch=_KRONECKER, needs=(examples,)),
        Entrant("ekfac", _structured(rules.ekfac), _DAMPED, batch=_KRONECKER, needs=(examples,)),
    )
}  # fmt: skip
CLASSIC = (
    "sgd", "momentum", "adagrad", "rmsprop", "adam", "lbfgs",
    "newton", "levenberg_marquardt", "kfac",
)  # fmt: skip
