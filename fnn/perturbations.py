"""What is done to a model's inputs while it trains: augmentation, noise, attacks.

A model that takes a key is in training when it gets one. Around any model,

    noisy = augmented(model.apply, functools.partial(data.add_noise, stddev=0.1))
    objective = Objective(noisy, loss)

is a model that sees fresh noise on every example and in every step of training, and none in
inference. Random changes of images (`fnn.data`) are added likewise, and so are attacks,

    attack = fast_gradient_sign(model.apply, loss, eps=0.1, bounds=(0, 1))
    objective = Objective(adversarial(model.apply, attack), loss)
    fit(rule, objective, params, ((inputs, targets), targets), key=key)

with which the model is trained on the inputs that are worst for it as it stands. An attack is a
function `attack(params, x, target) -> x` of one example. It is of use by itself too: mapped over
test examples, it tells the accuracy under attack.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from fnn.objective import Loss, Model, keyed

__all__ = [
    "ANYWHERE",
    "Attack",
    "Bounds",
    "adversarial",
    "augmented",
    "fast_gradient_sign",
    "projected_gradient",
]
__dir__ = __all__.copy

Attack = Callable[[PyTree, Array, Any], Array]
Bounds = tuple[float, float]
ANYWHERE: Bounds = (-math.inf, math.inf)


def augmented(model: Model, augment: Callable[[Array, Any], Any]) -> Model:
    """A model that is trained on randomly changed inputs.

    Args:
        model: `model(params, x) -> outputs`, with `key=None` or without.
        augment: `augment(key, x) -> x` of one example.

    Returns:
        A model of the same parameters. With a key it answers for `augment(key, x)`; without, for x.

    Example:
        >>> from fnn import data
        >>> model = augmented(lambda w, x: w * x, data.add_noise)
        >>> float(model(2.0, 1.0)), float(model(2.0, 1.0, key=jax.random.key(0))) == 2.0
        (2.0, False)
    """
    model = keyed(model)

    def apply(params: PyTree, x: Any, *, key: Array | None = None) -> Any:
        if key is None:
            return model(params, x)
        draw, inner = jax.random.split(key)
        x = augment(draw, x)
        return model(params, x, key=inner)

    return apply


def adversarial(model: Model, attack: Attack, share: float | Array = 0.5) -> Model:
    """A model that is trained on attacked inputs as well.

    Its inputs are pairs (x, target), for the attack must know what to make worse; data are
    `((inputs, targets), targets)`. With a key, an example is attacked with probability `share`:
    in the mean, the loss is `(1 - share) clean + share attacked`. Without a key, the model answers
    for x.

    Args:
        model: `model(params, x) -> outputs`, with `key=None` or without.
        attack: an attack on this model.
        share: the probability of an attack, in [0, 1].

    Returns:
        A model of the same parameters.

    Raises:
        ValueError: if `share` is a number outside of its range.

    Source:
        Goodfellow, Shlens and Szegedy (2015), section 6, arXiv:1412.6572.

    Differs:
        They take the two losses of every example, for twice the work.

    Example:
        >>> def worse(w, x, target):
        ...     return x + 10.0
        >>> model = adversarial(lambda w, x: w * x, worse, share=1.0)
        >>> float(model(2.0, (1.0, 0))), float(model(2.0, (1.0, 0), key=jax.random.key(0)))
        (2.0, 22.0)
    """
    if isinstance(share, int | float) and not 0 <= share <= 1:
        raise ValueError(f"adversarial: expected share in [0, 1], got {share}; try 0.5")
    model = keyed(model)

    def apply(params: PyTree, pair: Any, *, key: Array | None = None) -> Any:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ValueError(
                f"adversarial: expected inputs (x, target), got a {type(pair).__name__}; try data "
                "= ((inputs, targets), targets)"
            )
        x, target = pair
        if key is None:
            return model(params, x)
        draw, inner = jax.random.split(key)
        worst = jax.lax.stop_gradient(attack(params, x, target))
        x = jnp.where(jax.random.bernoulli(draw, share), worst, x)
        return model(params, x, key=inner)

    return apply


def fast_gradient_sign(
    model: Model, loss: Loss, eps: float | Array, *, bounds: Bounds = ANYWHERE
) -> Attack:
    """`x + eps sign(dloss/dx)`, the worst change by eps in every number if the loss were linear.

    A linear model w.x + b moves by eps |w|_1, so the attack grows with the number of inputs though
    none of them changes by more than eps.

    Args:
        model: `model(params, x) -> outputs`.
        loss: `loss(outputs, target) -> scalar`.
        eps: the largest change of a number, >= 0.
        bounds: the least and the largest input, such as (0, 1) for pixels.

    Returns:
        The attack.

    Source:
        Goodfellow, Shlens and Szegedy (2015), section 4, arXiv:1412.6572.

    Example:
        >>> attack = fast_gradient_sign(lambda w, x: w @ x, lambda y, t: -t * y, eps=0.1)
        >>> attack(jnp.array([2.0, -1.0]), jnp.zeros(2), 1.0).round(3).tolist()
        [-0.1..., 0.1...]
    """
    return projected_gradient(model, loss, eps, rate=eps, steps=1, bounds=bounds)


def projected_gradient(
    model: Model,
    loss: Loss,
    eps: float | Array,
    *,
    rate: float | Array | None = None,
    steps: int = 10,
    bounds: Bounds = ANYWHERE,
) -> Attack:
    """Steps of the fast gradient sign, each brought back to within eps of x in every number.

        x_0 = x,  x_k+1 = clip(x_k + rate sign(dloss/dx_k), x - eps, x + eps)

    Args:
        model: `model(params, x) -> outputs`.
        loss: `loss(outputs, target) -> scalar`.
        eps: the largest change of a number in all, >= 0.
        rate: the change in a step; 2.5 eps / steps by default.
        steps: the number of steps, at least 1.
        bounds: the least and the largest input, such as (0, 1) for pixels.

    Returns:
        The attack.

    Raises:
        ValueError: if a number is out of range, or the bounds do not ascend.

    Source:
        Madry, Makelov, Schmidt, Tsipras and Vladu (2018), section 2.1, arXiv:1706.06083.

    Differs:
        They start from a random point near x: `attack(params, add_noise(key, x), target)`, cut.

    Example:
        >>> attack = projected_gradient(lambda w, x: w * x**2, lambda y, t: (y - t) ** 2, 0.5)
        >>> float(attack(1.0, jnp.array(1.0), 0.0))
        1.5
    """
    for name, number, least in (("eps", eps, 0), ("rate", rate, 0), ("steps", steps, 1)):
        if isinstance(number, int | float) and not number >= least:
            raise ValueError(f"attack: expected {name} >= {least}, got {number}")
    low, high = bounds
    if not low < high:
        raise ValueError(f"attack: expected bounds that ascend, got {bounds}; try (0, 1)")
    length = 2.5 * eps / steps if rate is None else rate

    def attack(params: PyTree, x: Array, target: Any) -> Array:
        x = jnp.asarray(x)
        slope = jax.grad(lambda x: loss(model(params, x), target))

        def step(_: int, point: Array) -> Array:
            point = point + jnp.asarray(length, x.dtype) * jnp.sign(slope(point))
            reach = jnp.asarray(eps, x.dtype)
            return jnp.clip(jnp.clip(point, x - reach, x + reach), low, high)

        return jax.lax.fori_loop(0, steps, step, x)

    return attack
