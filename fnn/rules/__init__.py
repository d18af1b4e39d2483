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

Second order, from the curvature that they see in `value_fn`:

    newton                  to where the quadratic model is stationary
    gauss_newton            the same without the curvature of the model: never uphill
    levenberg_marquardt     damped by `damping`, a step only if it lowers the value; `scaling`

For some of the leaves, and for frameworks without extra arguments:

    only        a rule for the leaves that a mask selects
    bind        a rule that makes value, gradient and value function itself

`static_arguments(rule)` names the hyperparameters that cannot be traced. What all rules promise is
said in `contract`.
"""

from fnn.rules import damping as damping
from fnn.rules import scaling as scaling
from fnn.rules.adapters import bind as bind
from fnn.rules.adapters import only as only
from fnn.rules.contract import static_arguments as static_arguments
from fnn.rules.first_order import adagrad as adagrad
from fnn.rules.first_order import adam as adam
from fnn.rules.first_order import adamw as adamw
from fnn.rules.first_order import momentum as momentum
from fnn.rules.first_order import nesterov as nesterov
from fnn.rules.first_order import rmsprop as rmsprop
from fnn.rules.first_order import rprop as rprop
from fnn.rules.first_order import sgd as sgd
from fnn.rules.levenberg_marquardt import levenberg_marquardt as levenberg_marquardt
from fnn.rules.second_order import gauss_newton as gauss_newton
from fnn.rules.second_order import newton as newton

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "bind",
    "damping",
    "gauss_newton",
    "levenberg_marquardt",
    "momentum",
    "nesterov",
    "newton",
    "only",
    "rmsprop",
    "rprop",
    "scaling",
    "sgd",
    "static_arguments",
]
