"""Rules: optimizers by name, each one word in the same loop.

    value, grad = jax.value_and_grad(value_fn)(params)
    updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
    params = optax.apply_updates(params, updates)

First order, from the gradient alone:

    sgd         gradient descent; optax's trace as an option
    momentum    with a velocity
    nesterov    with a velocity, corrected where it leads to
    adagrad     divided by the root of the sum of squared gradients
    rmsprop     divided by the root of their running mean
    adam        the same for a running mean of gradients
    adamw       with weight decay outside the division
    rprop       signs, and a step size for every parameter

`static_arguments(rule)` names the hyperparameters that cannot be traced. What all rules promise is
said in `contract`.
"""

from fnn.rules.contract import static_arguments as static_arguments
from fnn.rules.first_order import adagrad as adagrad
from fnn.rules.first_order import adam as adam
from fnn.rules.first_order import adamw as adamw
from fnn.rules.first_order import momentum as momentum
from fnn.rules.first_order import nesterov as nesterov
from fnn.rules.first_order import rmsprop as rmsprop
from fnn.rules.first_order import rprop as rprop
from fnn.rules.first_order import sgd as sgd

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "momentum",
    "nesterov",
    "rmsprop",
    "rprop",
    "sgd",
    "static_arguments",
]
