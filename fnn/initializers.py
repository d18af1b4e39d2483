"""Initializers of the field's textbooks that `jax.nn.initializers` lacks.

Each returns an `initializer(key, shape, dtype) -> array`, as those of `jax.nn.initializers` do, and
stands wherever one is asked for. A weight's shape is (fan_in, fan_out), a kernel's (*window, fan_in
per tap, fan_out): the last axis counts the units, all others together are what one unit reads.

What goes by similar names in `jax.nn.initializers` is another distribution: its `glorot_normal`,
`he_normal` and `lecun_normal` cut the Gaussian at two standard deviations (and widen it to keep the
variance), and its `uniform` runs from 0 up. Its `normal(stddev)` is the plain Gaussian.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

__all__ = ["glorot_gaussian", "he_gaussian", "lecun_gaussian", "sparse", "symmetric_uniform"]
__dir__ = __all__.copy

Initializer = Callable[..., Array]


def lecun_gaussian() -> Initializer:
    """Gaussian, not truncated, of variance 1 / fan_in: keeps the variance of linear units.

    Returns:
        The initializer.

    Source: LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, eq. 16,
    doi:10.1007/3-540-49430-8_2.

    Example:
        >>> import jax
        >>> from fnn import initializers
        >>> initializers.lecun_gaussian()(jax.random.key(0), (400, 100)).std().round(2)
        Array(0.05, dtype=float...)
    """
    return jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def glorot_gaussian() -> Initializer:
    """Gaussian, not truncated, of variance 2 / (fan_in + fan_out): LeCun's, forward and backward.

    Returns:
        The initializer.

    Source: Glorot and Bengio (2010), eq. 12, https://proceedings.mlr.press/v9/glorot10a.html.

    Differs: they draw from the uniform distribution of that variance.

    Example:
        >>> import jax
        >>> from fnn import initializers
        >>> initializers.glorot_gaussian()(jax.random.key(0), (400, 100)).std().round(2)
        Array(0.06, dtype=float...)
    """
    return jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


def he_gaussian() -> Initializer:
    """Gaussian, not truncated, of variance 2 / fan_in: keeps the variance of rectified units.

    Returns:
        The initializer.

    Source: He, Zhang, Ren and Sun (2015), eq. 10, arXiv:1502.01852.

    Example:
        >>> import jax
        >>> from fnn import initializers
        >>> initializers.he_gaussian()(jax.random.key(0), (400, 100)).std().round(2)
        Array(0.07, dtype=float...)
    """
    return jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def symmetric_uniform(limit: float) -> Initializer:
    """Uniform between -limit and limit, of variance limit^2 / 3.

    Args:
        limit: the largest absolute value, > 0; 0.05 and 1 / sqrt(fan_in) are usual.

    Returns:
        The initializer.

    Raises:
        ValueError: if `limit` is not positive.

    Example:
        >>> import jax
        >>> from fnn import initializers
        >>> weight = initializers.symmetric_uniform(0.05)(jax.random.key(0), (400, 100))
        >>> weight.min().round(3), weight.max().round(3)
        (Array(-0.05, dtype=float...), Array(0.05, dtype=float...))
    """
    if not limit > 0:
        raise ValueError(f"symmetric_uniform: expected a limit > 0, got {limit}; try 0.05")

    def initializer(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike | None = None
    ) -> Array:
        return jax.random.uniform(key, shape, _floating(dtype), -limit, limit)

    return initializer


def sparse(connections: int = 15, *, stddev: float = 1.0) -> Initializer:
    """Gaussian weights on a fixed number of connections into every unit, zero on all others.

    What a unit receives then does not depend on how many inputs it has, and units differ in what
    they see. With tanh units Martens sets the biases to 0.5, with logistic units to 0.

    Args:
        connections: how many of its inputs every unit sees, > 0; all of them if it has fewer.
        stddev: the standard deviation of their weights, > 0.

    Returns:
        The initializer, for shapes (fan_in, fan_out) and (*window, fan_in, fan_out).

    Raises:
        ValueError: if `connections` or `stddev` is not positive; from the initializer, if the shape
            has fewer than two axes.

    Source: Martens (2010), Deep learning via Hessian-free optimization, section 5.

    Example:
        >>> import jax
        >>> from fnn import initializers
        >>> weight = initializers.sparse(3)(jax.random.key(0), (10, 4))
        >>> (weight != 0).sum(axis=0).tolist()
        [3, 3, 3, 3]
    """
    if not (connections > 0 and stddev > 0):
        raise ValueError(
            "sparse: expected connections > 0 and stddev > 0, "
            f"got {connections} and {stddev}; try sparse(15)"
        )

    def initializer(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike | None = None
    ) -> Array:
        if len(shape) < 2:
            raise ValueError(
                f"sparse: expected a shape (fan_in, fan_out), got {tuple(shape)}; "
                "start biases with jax.nn.initializers.constant"
            )
        dtype = _floating(dtype)
        *inputs, units = shape
        choose, draw = jax.random.split(key)
        connected = jnp.broadcast_to(
            jnp.arange(math.prod(inputs))[:, None] < connections, (math.prod(inputs), units)
        )
        connected = jax.random.permutation(choose, connected, axis=0, independent=True)
        # In bfloat16 one draw in a few hundred is exactly 0, and the number of connections is off.
        wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        weights = stddev * jax.random.normal(draw, connected.shape, wide)
        return jnp.where(connected, weights, 0).astype(dtype).reshape(shape)

    return initializer


def _floating(dtype: DTypeLike | None) -> DTypeLike:
    return jnp.result_type(float) if dtype is None else dtype
