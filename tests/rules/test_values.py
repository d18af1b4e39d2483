"""Rules are values: an equal call gives the same object."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import rules
from tests.line import loss, model
from tests.rules.test_contract import every_rule, needed, numbers


@every_rule
def test_equal_calls_give_the_same_object(factory):
    given = needed(factory)
    assert factory(**given) is factory(**given)
    assert factory(*given.values()) is factory(**given)
    for name, number in numbers(factory).items():
        other = factory(**(given | {name: 0.9 * number + 0.04}))
        assert other is not factory(**given)
        assert other is factory(**(given | {name: 0.9 * number + 0.04}))


@every_rule
def test_numbers_that_are_traced_make_rules_of_their_own(factory):
    """What is kept holds no tracer, wherever the first call was made."""
    given = needed(factory)
    made = []

    @jax.jit
    def trace(numbers):
        made.append(factory(**given))
        made.append(factory(**(given | numbers)))
        return numbers

    trace(numbers(factory))
    assert made[0] is factory(**given)
    assert made[1] is not factory(**given)
    assert jax.tree.leaves(made[0].init({"w": jnp.ones((3, 2)), "b": jnp.ones(2)})) is not None


def test_what_is_made_of_rules_is_a_value_too():
    mask = {"weight": True, "bias": False}
    objective = fnn.Objective(model, loss)

    def every():
        adam = rules.adam(1e-3)
        return [
            rules.only(adam, dict(mask)),
            rules.phases([(adam, 3), (rules.newton(), None)]),
            rules.phases([(adam, rules.plateau()), (rules.newton(), None)]),
            rules.searched(rules.gauss_newton()),
            rules.bind(adam, objective),
            rules.accumulate(4),
            rules.levenberg_marquardt(policy=rules.damping.multiplicative(increase=3.0)),
            rules.levenberg_marquardt(solver=fnn.solvers.conjugate_gradients(iterations=3)),
        ]

    assert all(one is other for one, other in zip(every(), every(), strict=True))
    assert rules.only(rules.adam(1e-3), {"weight": False, "bias": True}) is not every()[0]


def test_numbers_of_other_types_and_arrays_are_other_values():
    assert rules.sgd(1) is not rules.sgd(1.0)
    assert rules.sgd(0.1, nesterov=True) is not rules.sgd(0.1, nesterov=1)
    rate = np.array(0.1)
    assert rules.sgd(rate) is not rules.sgd(rate)
    schedule = optax.constant_schedule(0.1)
    assert rules.sgd(schedule) is rules.sgd(schedule)


def test_a_call_that_is_none_keeps_the_words_of_python():
    with pytest.raises(TypeError, match=r"adam\(\) missing 1 required positional argument"):
        rules.adam()
    with pytest.raises(TypeError, match=r"adam\(\) got an unexpected keyword argument 'rate'"):
        rules.adam(rate=0.1)
