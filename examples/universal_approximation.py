"""Three tanh units fit x^2, sin(pi x), |x| and a step: 20 starts each, in one compiled program.

uv run examples/universal_approximation.py
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "universal_approximation.png"
X = np.linspace(-1, 1, 50)[:, None]
FUNCTIONS = {"x²": X**2, "sin(πx)": np.sin(np.pi * X), "|x|": abs(X), "step": 1.0 * (X > 0)}
NORMAL = jax.nn.initializers.normal(1.0)
HIDDEN = layers.serial(layers.dense(3, weight=NORMAL, bias=NORMAL), layers.elementwise(jnp.tanh))
MODEL = layers.serial(HIDDEN, layers.dense(1, weight=NORMAL, bias=NORMAL))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.half_squared_error)
# Almost undamped at first: on |x| bold steps end in the better of two valleys more often.
RULE = rules.levenberg_marquardt(policy=rules.damping.nielsen(1.3, tau=1e-12), acceleration=0)


@functools.partial(jax.jit, static_argnames=("starts", "steps"))
def fits(key, targets, starts, steps):
    """For every function and start, the parameters and their mean squared error."""

    def fit(start, targets):
        value_fn = OBJECTIVE.on((X, targets))

        def step(carry, _):
            params, state = carry
            grad = jax.grad(value_fn)(params)
            updates, state = RULE.update(grad, state, params, grad=grad, value_fn=value_fn)
            return (jax.tree.map(jnp.add, params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, RULE.init(start)), length=steps)
        return params, 2 * value_fn(params)  # the loss is half a square

    first = jax.vmap(lambda key: MODEL.init(key, X[0]))(jax.random.split(key, starts))
    return jax.vmap(lambda t: jax.vmap(fit, (0, None))(first, t))(targets)


def draw(axes, title, targets, params):
    """The points, the network through them, and its hidden units, dashed."""
    hidden = jax.vmap(lambda x: HIDDEN.apply(params[0], x))(X)
    outputs = OBJECTIVE.outputs(params, X)
    plots.function_fit(axes, X[:, 0], targets[:, 0], outputs[:, 0], hidden)
    axes.set(title=title, xlim=(-1, 1), ylim=(-1.15, 1.15), xticks=[-1, 0, 1], yticks=[-1, 0, 1])


def main(starts=20, steps=500, seed=0, picture=PICTURE):
    """Draws the best of the fits; returns the mean squared errors of all, by function."""
    targets = np.stack([*FUNCTIONS.values()])
    params, errors = fits(jax.random.key(seed), targets, starts, steps)
    figure, panels = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
    for i, (axes, name) in enumerate(zip(panels, FUNCTIONS, strict=True)):
        best = i, int(np.argmin(errors[i]))
        title = f"{name}: {errors[best]:.1e}"
        draw(axes, title, targets[i], jax.tree.map(lambda a, at=best: a[at], params))
        print(f"{name}: median {np.median(errors[i]):.2e}, best {errors[best]:.2e}")
    figure.savefig(picture, dpi=80)
    return dict(zip(FUNCTIONS, np.asarray(errors), strict=True))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
