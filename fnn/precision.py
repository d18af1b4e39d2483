"""Precision: the dtypes in which a network is kept, computed and solved, said once, at its model.

    policy = Policy(compute=jnp.bfloat16)
    objective = Objective(policy.model(model.apply), loss)
    params = policy.keep(model.init(key, x))

Parameters, gradients, updates and the states of rules are float32; every product of the model,
forward and backward, is of bfloat16 numbers; losses see float32 outputs. What a second-order rule
makes of the captured numbers is summed in `gram`, and its small system is factored in `solve`. No
flag is set: another model of the same program has another policy, or none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

__all__ = ["Policy", "policy_of"]
__dir__ = __all__.copy


class Policy(NamedTuple):
    """Four dtypes, one for each kind of arithmetic.

    Attributes:
        params: for the parameters that are trained, and so for their gradients and updates.
        compute: for the model's arithmetic. Its sums are short: means over examples are wider.
        gram: for the products and sums of Gram and Gauss-Newton matrices, at least float32; float64
            squares the numbers of a float32 model exactly, and needs jax_enable_x64.
        solve: for the factorization of a dense system, at least float32; None is float64 where the
            device has it. A solution in float32 is refined once.

    Example:
        >>> from fnn import Objective, losses
        >>> policy = Policy(compute=jnp.bfloat16)
        >>> line = Objective(policy.model(lambda w, x: w * x), losses.half_squared_error)
        >>> value_fn = line.on((jnp.array([1.0, 2.0]), jnp.array([3.0, 6.0])))
        >>> w = policy.keep(jnp.array(1.0))
        >>> value, grad = jax.value_and_grad(value_fn)(w)
        >>> print(value, grad, grad.dtype)
        5.0 -5.0 float32
    """

    params: DTypeLike = jnp.float32
    compute: DTypeLike = jnp.bfloat16
    gram: DTypeLike = jnp.float32
    solve: DTypeLike | None = None

    def model(self, apply: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """A model that computes by this policy.

        Args:
            apply: `apply(params, x)`, perhaps with `key=`.

        Returns:
            The same function of parameters in `params`: they and x are cast to `compute`, and the
            outputs back. Numbers that are not of floating point stay as they are.
        """
        _require_dtypes(self)

        @functools.wraps(apply)
        def model(params: PyTree, x: PyTree, **key: Any) -> PyTree:
            outputs = apply(_cast(params, self.compute), _cast(x, self.compute), **key)
            return _cast(outputs, self.params)

        vars(model)["policy"] = self
        return model

    def keep(self, params: PyTree) -> PyTree:
        """The parameters that are trained.

        Args:
            params: the parameters in any dtype.

        Returns:
            The parameters in the dtype `params` of the policy.
        """
        return _cast(params, self.params)


def policy_of(model: Callable[..., Any]) -> Policy | None:
    """The policy by which a model computes.

    Args:
        model: any model.

    Returns:
        Its policy; None where it has none.

    Example:
        >>> policy_of(Policy().model(jnp.dot)) == Policy(), policy_of(jnp.dot)
        (True, None)
    """
    return getattr(model, "policy", None)


def _cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """A tree whose floating-point leaves are of a dtype."""

    def cast_leaf(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)


def _require_dtypes(policy: Policy) -> None:
    """Raises an error where a dtype of a policy is not fit for its purpose."""
    for name, dtype in policy._asdict().items():
        if dtype is None and name == "solve":
            continue
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"Policy: expected {name} to be a floating-point dtype, got {dtype}; try float32"
            )
        if name in ("gram", "solve") and jnp.finfo(dtype).bits < 32:
            raise ValueError(
                f"Policy: expected {name} of at least 32 bits, got {jnp.dtype(dtype)}, in which "
                "sums of many numbers end early; try float32"
            )
        if name != "solve" and jnp.dtype(dtype) != jax.dtypes.canonicalize_dtype(dtype):
            raise ValueError(
                f"Policy: expected {name} to be a dtype that JAX has now, got {jnp.dtype(dtype)}; "
                "try jax.config.update('jax_enable_x64', True) at the start of the program"
            )
