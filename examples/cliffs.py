"""At the cliffs of a recurrent network one step of the gradient leaps away; a clipped one does not.

uv run examples/cliffs.py
"""

import functools
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
START = np.array([6.8, -3.1])


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
    "sgd, clipped to 1": optax.chain(optax.clip_by_global_norm(1.0), SGD),
    "LM": rules.levenberg_marquardt(),
}


@functools.partial(jax.jit, static_argnames=("rule", "steps"))
def path(rule, start, steps):
    """The parameters on the way, the errors, and the norms of the gradient there."""
    rule = optax.with_extra_args_support(rule)

    def step(carry, _):
        (p, state), (value, grad) = carry, jax.value_and_grad(ERROR)(carry[0])
        updates, state = rule.update(grad, state, p, value=value, grad=grad, value_fn=ERROR)
        return (p + updates, state), (p, value, jnp.linalg.norm(grad))

    return jax.lax.scan(step, (start, rule.init(start)), length=steps)[1]


def main(steps=1000, picture=PICTURE):
    """Draws the picture; returns the paths from one start, with errors and norms of gradients."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    plots.contours(left, lambda p: jnp.log10(ERROR(p) + 1e-2), (3, 7), (-3.8, 2.2))
    seen = {}
    for i, (name, rule) in enumerate(RULES.items()):
        color, dash, _ = plots.style(i)
        began = time.perf_counter()
        points, errors, norms = seen[name] = [*map(np.asarray, path(rule, START, steps))]
        left.plot(*points.T, ".-", color=color, linewidth=1, markersize=4)
        left.plot(*points[-1], "*", color=color, markersize=13, markeredgecolor="k")
        right.semilogy(np.maximum(errors, 1e-20), color=color, dashes=dash, label=name)
        longest = np.linalg.norm(np.diff(points, axis=0), axis=1).max()
        print(f"one recurrent unit, 2 parameters, {name:20}{steps} steps "
              f"{time.perf_counter() - began:4.1f} s, longest step {longest:.2f}, "
              f"steepest {norms.max():.0f}, error {errors[-1]:.0e}")  # fmt: skip
    left.set(xlabel="recurrent weight w", ylabel="bias b", title="paths, with stars at their ends")
    right.set(xlabel="steps", ylabel="error", title="the error on the way")
    right.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return seen


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
