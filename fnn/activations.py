"""Activations of the field's textbooks that `jax.nn` lacks.

All are functions of an array, element by element, that keep its dtype and let NaN through; the
rest (`relu`, `leaky_relu`, `sigmoid`, `tanh`, `softmax`, `hard_tanh`, ...) stands in `jax.nn`.
Make one a layer with `layers.elementwise(activation)`, bind its parameter with
`functools.partial`, and let it learn its slope with `layers.prelu`.

At 0, where courses differ (1 in one, 0 and -1 in another), both steps are 1 here: a unit that just
reaches its threshold fires.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

__all__ = [
    "absolute_value",
    "bipolar_step",
    "gudermannian",
    "parametric_relu",
    "swish",
    "unipolar_step",
]
__dir__ = __all__.copy


def unipolar_step(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The threshold unit with outputs 1 and 0: 1 where x >= 0.

    A unit that just reaches its threshold fires. The derivative is zero everywhere.

    Args:
        x: the net input, threshold subtracted.

    Returns:
        1 where x >= 0, otherwise 0.

    Source: McCulloch and Pitts (1943), A logical calculus of the ideas immanent in nervous
    activity, doi:10.1007/BF02478259.

    Example:
        >>> from fnn import activations
        >>> activations.unipolar_step([-0.5, 0.0, 0.5]).tolist()
        [0.0, 1.0, 1.0]
    """
    return (bipolar_step(x) + 1) / 2


def bipolar_step(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The threshold unit with outputs 1 and -1: 1 where x >= 0.

    A unit that just reaches its threshold fires. The derivative is zero everywhere.

    Args:
        x: the net input, threshold subtracted.

    Returns:
        1 where x >= 0, otherwise -1.

    Source: Rosenblatt (1958), The perceptron, doi:10.1037/h0042519.

    Differs: `jnp.sign` is 0 at 0, which belongs to no class.

    Example:
        >>> from fnn import activations
        >>> activations.bipolar_step([-0.5, 0.0, 0.5]).tolist()
        [-1.0, 1.0, 1.0]
    """
    x = jnp.asarray(x)
    return jnp.where(x == 0, 1, jnp.sign(x)).astype(x.dtype)


def absolute_value(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Absolute-value rectification, |x|: `parametric_relu` with slope -1, but flat at 0.

    Args:
        x: the net input.

    Returns:
        |x|, with the derivative sign(x).

    Source: Jarrett, Kavukcuoglu, Ranzato and LeCun (2009), What is the best multi-stage
    architecture for object recognition?, doi:10.1109/ICCV.2009.5459469.

    Differs: the derivative at 0 is 0, where JAX gives 1 for that of `jnp.abs`.

    Example:
        >>> from fnn import activations
        >>> activations.absolute_value([-2.0, 3.0]).tolist()
        [2.0, 3.0]
    """
    x = jnp.asarray(x)
    return x * jnp.sign(x)


def parametric_relu(
    x: Float[ArrayLike, "..."], slope: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """max(0, x) + slope min(0, x): ReLU, leaky ReLU and the absolute value are slopes 0, 0.01, -1.

    Args:
        x: the net input.
        slope: the slope for x <= 0, one number or one per unit.

    Returns:
        x where x > 0, otherwise slope x.

    Source: He, Zhang, Ren and Sun (2015), eq. 1, arXiv:1502.01852.

    Differs: the derivative at 0 is the slope, as `jax.nn.relu` has it (`jax.nn.leaky_relu` has 1).

    Example:
        >>> from fnn import activations
        >>> activations.parametric_relu([-2.0, 3.0], 0.25).tolist()
        [-0.5, 3.0]
    """
    x = jnp.asarray(x)
    return jnp.where(x > 0, x, jnp.asarray(slope, x.dtype) * x)


def swish(x: Float[ArrayLike, "..."], beta: Float[ArrayLike, "..."] = 1.0) -> Float[Array, "..."]:
    """Swish: x sigmoid(beta x), from the line x / 2 (beta = 0) to ReLU (beta to infinity).

    Args:
        x: the net input.
        beta: how sharply it bends, one number or one per unit; 1 is `jax.nn.silu`, 1.702 nearly
            `jax.nn.gelu`.

    Returns:
        x sigmoid(beta x).

    Source: Ramachandran, Zoph and Le (2017), arXiv:1710.05941.

    Example:
        >>> from fnn import activations
        >>> [round(y, 4) for y in activations.swish([-1.2785, 0.0, 1.0]).tolist()]
        [-0.2785, 0.0, 0.7311]
    """
    x = jnp.asarray(x)
    return x * jax.nn.sigmoid(jnp.asarray(beta, x.dtype) * x)


def gudermannian(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """2 atan(tanh(x / 2)), a sigmoid between -pi/2 and pi/2 whose derivative is sech(x).

    Args:
        x: the net input.

    Returns:
        gd(x), the integral of sech from 0 to x.

    Source: Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 4.3.117.

    Example:
        >>> from fnn import activations
        >>> round(float(activations.gudermannian(1.0)), 4)
        0.8658
    """
    return 2 * jnp.arctan(jnp.tanh(jnp.asarray(x) / 2))
