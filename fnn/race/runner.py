"""The runner: all learning rates and seeds of a rule as lanes of one compiled program.

Lanes tell how far a rule comes, not how fast: a lane that shares its machine with others has no
time of its own. Seconds are measured on one run alone, of the rate that was chosen, after a
warm-up and without the evaluations that only the race needs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from fnn.objective import Objective
from fnn.problems import Problem
from fnn.race.entrants import Entrant
from fnn.training import Limits, Progress, Records, Stop, advance, source_of, start


class Result(NamedTuple):
    """What came of one rule: every trial and seed, and the trial that was chosen.

    Attributes:
        name: the rule.
        rates: the learning rate of each trial.
        chosen: the trial with the lowest median validation loss at the end.
        steps: the number of steps at the end of each epoch.
        train_loss: mean loss over all training examples at the end of each epoch.
        validation_loss: likewise over the validation examples.
        metric: the problem's metric on the test examples, at the end.
        stopped: why each lane stopped, as `Stop`.
        compile_seconds: to compile the lanes.
        lanes_seconds: to run all lanes together.
        run_seconds: to run one seed of the chosen trial alone.
    """

    name: str
    rates: Float[np.ndarray, " trials"]
    chosen: int
    steps: Int[np.ndarray, " epochs"]
    train_loss: Float[np.ndarray, "trials seeds epochs"]
    validation_loss: Float[np.ndarray, "trials seeds epochs"]
    metric: Float[np.ndarray, "trials seeds"]
    stopped: Int[np.ndarray, "trials seeds"]
    compile_seconds: float
    lanes_seconds: float
    run_seconds: float


def run(
    problem: Problem,
    entrants: Sequence[Entrant],
    *,
    seeds: int = 5,
    trials: int = 5,
    epochs: int | None = None,
) -> Iterator[Result]:
    """Races rules on a problem: the same seeds, trials and epochs for each.

    Args:
        problem: what is trained.
        entrants: the rules.
        seeds: starting points and orders of the examples; at least 1.
        trials: learning rates tried for each rule; at least 1.
        epochs: passes through the training data; the problem's by default.

    Yields:
        A result for each rule, as it is done.

    Raises:
        ValueError: if a number is not positive.
    """
    for name, number in {"seeds": seeds, "trials": trials, "epochs": epochs}.items():
        if number is not None and number < 1:
            raise ValueError(f"race: expected {name} of at least 1, got {number}")
    data = jax.tree.map(jnp.asarray, (problem.train, problem.validation, problem.test))
    example = jax.tree.map(lambda a: a[0], problem.train[0])
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    starts = jax.jit(jax.vmap(lambda key: problem.model.init(key, example)))(keys)
    for entrant in entrants:
        yield _run(problem, entrant, (starts, keys), data, trials, epochs or problem.epochs)


def _run(
    problem: Problem, entrant: Entrant, seeds: PyTree, data: PyTree, trials: int, epochs: int
) -> Result:
    objective, (_, metric) = problem.objective, problem.metric

    def lane(rate: Array, seed: PyTree, data: PyTree) -> tuple[Progress, Records, Array]:
        train, validation, (inputs, targets) = data

        def evaluate(params: PyTree) -> dict[str, Array]:
            bare = Objective(objective.model, objective.loss)
            return {"loss": bare.on(validation)(params), "train": bare.on(train)(params)}

        progress, records = _train(problem, entrant, epochs, evaluate, rate, seed, train)
        score = metric(objective.outputs(progress.params, inputs), targets)
        return progress, records, score

    def alone(rate: Array, seed: PyTree, train: PyTree) -> Progress:
        return _train(problem, entrant, epochs, lambda _: {}, rate, seed, train)[0]

    rates = jnp.array(entrant.rates(trials))
    over_seeds = jax.vmap(lane, in_axes=(None, 0, None))
    lanes = jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None)))
    compiled, compile_seconds = _timed(lambda: lanes.lower(rates, seeds, data).compile())
    (progress, records, score), lanes_seconds = _timed(compiled, rates, seeds, data)

    validation = np.asarray(records.evaluated["loss"])
    stopped = np.where(progress.stopped == Stop.RUNNING, Stop.BUDGET, progress.stopped)
    final = np.where(stopped == Stop.NON_FINITE, np.inf, validation[:, :, -1])
    chosen = int(np.argmin(np.median(final, axis=1)))

    by_itself = jax.jit(alone), rates[chosen], jax.tree.map(lambda a: a[0], seeds), data[0]
    _timed(*by_itself)
    _, run_seconds = _timed(*by_itself)
    return Result(
        entrant.name,
        np.asarray(rates),
        chosen,
        np.arange(1, epochs + 1) * (int(progress.step.max()) // epochs),
        np.asarray(records.evaluated["train"]),
        validation,
        np.asarray(score),
        stopped,
        compile_seconds,
        lanes_seconds,
        run_seconds,
    )


def _train(
    problem: Problem,
    entrant: Entrant,
    epochs: int,
    evaluate: Callable[[PyTree], dict[str, Array]],
    rate: Array,
    seed: PyTree,
    train: PyTree,
) -> tuple[Progress, Records]:
    params, key = seed
    rule = entrant.rule(rate)
    batch_size = None if entrant.full_batch else problem.batch_size
    source = source_of(problem.objective, train, batch_size=batch_size, key=key)
    steps = epochs * source.steps
    return advance(
        rule,
        source,
        evaluate,
        start(rule, params, keep_best=False),
        0,
        Limits(steps, epochs),
        capacity=(steps, epochs),
    )


def _timed(fn: Callable, *args) -> tuple:
    begin = time.perf_counter()
    result = jax.block_until_ready(fn(*args))
    return result, time.perf_counter() - begin
