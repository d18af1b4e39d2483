"""The loop of the package, for all tests of rules: value and gradient, an update, the next step.

Every rule is offered what the README's loop offers it. Nothing is compiled here: a test compiles
what its cases share.
"""

import jax
import optax


def evaluate(params, value_fn):
    """The value and the gradient."""
    return jax.value_and_grad(value_fn)(params)


evaluate_compiled = jax.jit(evaluate)  # one program for all rules, where the loop is Python's


def update(rule, params, value_fn, state=None, *, evaluate=evaluate, **extra_args):
    """The updates and the next state of a rule, which begins where there is no state."""
    state = rule.init(params) if state is None else state
    value, grad = evaluate(params, value_fn)
    extra_args |= {"value": value, "grad": grad, "value_fn": value_fn}
    return rule.update(grad, state, params, **extra_args)


def step(rule, params, value_fn, state=None, *, evaluate=evaluate):
    """The parameters and the state after an update."""
    updates, state = update(rule, params, value_fn, state, evaluate=evaluate)
    return optax.apply_updates(params, updates), state


def stream(rule, params, on, batches, *, state=None, steps=None, evaluate=evaluate):
    """The parameters and the state after each step, on the value function of each batch."""

    def advance(carry, batch):
        params, state = carry
        after = step(rule, params, on(batch), state, evaluate=evaluate)
        return after, after

    state = rule.init(params) if state is None else state
    return jax.lax.scan(advance, (params, state), batches, length=steps)[1]


def walk(rule, params, value_fn, steps=1, state=None, *, evaluate=evaluate):
    """The parameters and the state after each of some steps on one value function."""
    options = {"state": state, "steps": steps, "evaluate": evaluate}
    return stream(rule, params, lambda _: value_fn, None, **options)
