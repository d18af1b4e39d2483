"""At the cliffs of a recurrent network one step of the gradient leaps away; a clipped one does not.

uv run examples/cliffs.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "cliffs.png"
STARTS = np.array([[6.2, -2.6], [5.5, -2.4], [6.8, -3.1]])


def last(params, start):
    """The state of one recurrent unit after 50 steps, h = w sigmoid(h) + b."""
    w, b = params
    return jax.lax.scan(lambda h, _: (w * jax.nn.sigmoid(h) + b, None), start, length=50)[0]


# From 1/2 it shall come to 0.7. At cliffs it chooses one or the other of two states (Pascanu,
# Mikolov and Bengio, 2013, figure 6).
ERROR = fnn.Objective(last, losses.half_squared_error).on((np.array([0.5]), np.array([0.7])))
SGD = rules.sgd(0.02)
RULES = {
    "sgd": SGD,
    "sgd, gradients clipped to norm 1": optax.chain(optax.clip_by_global_norm(1.0), SGD),
    "Levenberg-Marquardt": rules.levenberg_marquardt(),
}


def path(rule, start, steps):
    """The parameters at all steps, and the norms of the gradient there."""

    def step(carry, _):
        (p, state), (value, grad) = carry, jax.value_and_grad(ERROR)(carry[0])
        more = {"value": value, "grad": grad, "value_fn": ERROR}
        updates, state = optax.with_extra_args_support(rule).update(grad, state, p, **more)
        return (p + updates, state), (p, value, jnp.linalg.norm(grad))

    return jax.lax.scan(step, (start, rule.init(start)), length=steps)[1]
if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for n,r in RULES.items():
        for s in STARTS:
            p,v,g=map(np.asarray,jax.jit(lambda s: path(r,s,1000))(jnp.asarray(s)))
            i=np.argmax(np.linalg.norm(np.diff(p,axis=0),axis=1))
            print(n,s,p[-1],v[-1],g.max(),np.abs(np.diff(p,axis=0)).max(),i, v[[100,300]], p[i],p[i+1])
