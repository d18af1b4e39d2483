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
    saddle_free_newton      the same with the sizes of the curvatures: away from saddles
    trust_region_newton     to the least of the quadratic model within a `radius`
    cubic_newton            to the least of the quadratic model and a cubic term
    gauss_newton            the same without the curvature of the model: never uphill
    levenberg_marquardt     damped by `damping`, a step only if it lowers the value; `scaling`
    bayesian_levenberg_marquardt
                            the same with weight decay that it finds itself
    hessian_free            by conjugate gradients cut short: for many parameters, many rows
    spring                  on a small random batch, what earlier ones have found being kept
    kfac                    a matrix of small factors for every leaf, for large batches and networks
    ekfac                   the same with exact curvatures along the factors' eigenvectors

From the gradients of many steps:

    bfgs        the inverse of the Hessian, positive definite; dense, for few parameters
    sr1         the same with curvatures of both signs
    shampoo     divided by the root of a matrix for every axis of a leaf
    soap        Adam in the eigenvectors of these matrices

Several rules or batches, some of the leaves, step sizes, frameworks without extra arguments:

    phases      one rule after another, `until` a number of steps or a `plateau`
    accumulate  the Gauss-Newton step of `k` batches
    only        a rule for the leaves that a mask selects
    bounded     a rule within bounds, lower <= params <= upper
    searched    a rule's step, halved until the value is least
    bind        a rule that makes value, gradient and value function itself

`static_arguments(rule)` names the hyperparameters that cannot be traced. What all rules promise is
said in `contract`.
"""

from fnn.rules import damping as damping
from fnn.rules import scaling as scaling
from fnn.rules.around import Until as Until
from fnn.rules.around import accumulate as accumulate
from fnn.rules.around import bind as bind
from fnn.rules.around import bounded as bounded
from fnn.rules.around import only as only
from fnn.rules.around import phases as phases
from fnn.rules.around import plateau as plateau
from fnn.rules.around import projected as projected
from fnn.rules.around import require_inside as require_inside
from fnn.rules.around import searched as searched
from fnn.rules.bayesian import bayesian_levenberg_marquardt as bayesian_levenberg_marquardt
from fnn.rules.contract import static_arguments as static_arguments
from fnn.rules.first_order import adagrad as adagrad
from fnn.rules.first_order import adam as adam
from fnn.rules.first_order import adamw as adamw
from fnn.rules.first_order import momentum as momentum
from fnn.rules.first_order import nesterov as nesterov
from fnn.rules.first_order import rmsprop as rmsprop
from fnn.rules.first_order import rprop as rprop
from fnn.rules.first_order import sgd as sgd
from fnn.rules.gauss_newton import gauss_newton as gauss_newton
from fnn.rules.hessian_free import hessian_free as hessian_free
from fnn.rules.kronecker import ekfac as ekfac
from fnn.rules.kronecker import kfac as kfac
from fnn.rules.kronecker import shampoo as shampoo
from fnn.rules.kronecker import soap as soap
from fnn.rules.levenberg_marquardt import levenberg_marquardt as levenberg_marquardt
from fnn.rules.newton import newton as newton
from fnn.rules.quasi_newton import bfgs as bfgs
from fnn.rules.quasi_newton import sr1 as sr1
from fnn.rules.saddle_free import saddle_free_newton as saddle_free_newton
from fnn.rules.spring import spring as spring
from fnn.rules.trials import relative_length as relative_length
from fnn.rules.trust_region import cubic_newton as cubic_newton
from fnn.rules.trust_region import trust_region_newton as trust_region_newton

__all__ = [
    "Until",
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "bayesian_levenberg_marquardt",
    "bfgs",
    "bind",
    "bounded",
    "cubic_newton",
    "damping",
    "ekfac",
    "gauss_newton",
    "hessian_free",
    "kfac",
    "levenberg_marquardt",
    "momentum",
    "nesterov",
    "newton",
    "only",
    "phases",
    "plateau",
    "rmsprop",
    "rprop",
    "saddle_free_newton",
    "scaling",
    "searched",
    "sgd",
    "shampoo",
    "soap",
    "spring",
    "sr1",
    "static_arguments",
    "trust_region_newton",
]
__dir__ = __all__.copy
