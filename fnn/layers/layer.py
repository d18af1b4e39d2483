"""The contract of a layer, and the checks that all layers share."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray, PyTree

Initializer = Callable[..., Array]
LECUN_NORMAL: Initializer = jax.nn.initializers.lecun_normal()


class Layer(NamedTuple):
    """A layer: two pure functions, `init` for its parameters and `apply` for its outputs.

    `Layer(init, apply)` is all that a layer of your own needs:

        init(key, x) -> params
        apply(params, x, *, key=None) -> outputs

    x is one example: an array, or to `init` also a `jax.ShapeDtypeStruct`, or whatever tree of
    them the layer takes. Parameters are plain containers of arrays, `()` where there are none.
    A key means training (dropout drops), no key means inference. Nothing in a layer has state.

    A layer made of layers says so by a third function, which takes a batch of inputs through its
    parts in the order in which the data flow:

        through(visit, params, inputs) -> (params, outputs)

    It calls `visit(part, params, inputs) -> (params, outputs)` on each part and puts the results
    together. With it `calibrate` and `summary` see inside; all combinators of this package have
    one, and a layer without it is a single piece.

    Attributes:
        init: makes the parameters.
        apply: makes the outputs.
        name: what errors and summaries call the layer.
        through: visits the parts; None for a layer of one piece.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> def scale():
        ...     return layers.Layer(
        ...         init=lambda key, x: {"scale": jnp.ones(x.shape)},
        ...         apply=lambda params, x, *, key=None: params["scale"] * x,
        ...     )
        >>> model = layers.serial(layers.dense(3), scale())
        >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(2))
        >>> jax.eval_shape(model.apply, params, jnp.ones(2)).shape
        (3,)
    """

    init: Callable[[PRNGKeyArray, Any], PyTree]
    apply: Callable[..., Any]
    name: str = "layer"
    through: Callable[..., tuple[PyTree, Any]] | None = None

    def __repr__(self) -> str:
        """The layer by its name; `summary` says what is in it."""
        return f"<layer {self.name}>"


def without_key(apply: Callable[[PyTree, Any], Any]) -> Callable[..., Any]:
    """The `apply` of a layer that does the same in training and in inference."""

    def with_key(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        del key
        return apply(params, x)

    return with_key


def without_params(apply: Callable[..., Any], name: str) -> Layer:
    """A layer that only acts: its parameters are `()`."""

    def init(key: PRNGKeyArray, x: Any) -> tuple[()]:
        del key, x
        return ()

    return Layer(init, apply, name)


def draw(
    initializer: Initializer, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """Initial values, drawn in at least float32 (16-bit draws are coarse, QR has no 16 bits)."""
    return initializer(key, shape, widened(dtype)).astype(dtype)


def weight_and_bias(
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    weight: Initializer,
    bias: Initializer | None,
) -> dict[str, Array]:
    """The parameters of an affine map: biases, if any, one for each of the last axis of weights."""
    weight_key, bias_key = jax.random.split(key)
    params = {"weight": draw(weight, weight_key, shape, dtype)}
    return params if bias is None else params | {"bias": draw(bias, bias_key, shape[-1:], dtype)}


def widened(dtype: DTypeLike) -> DTypeLike:
    """The dtype for sums and statistics: at least float32."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def over_features(vector: Array, x: Array) -> Array:
    """One number a feature, with as many axes as x: what broadcasting would make of it unasked."""
    return jax.lax.broadcast_to_rank(vector, x.ndim)


def require_positive(name: str, *counts: int) -> None:
    """Refuse counts (features, groups, window sizes) that are not whole numbers above zero."""
    for count in counts:
        if not isinstance(count, Integral) or count <= 0:
            raise ValueError(f"{name}: expected whole numbers above zero, got {count}; try 1")


def require_example(name: str, x: Any, *axes: str) -> jax.ShapeDtypeStruct:
    """Shape and canonical dtype of a floating x with these axes; the first may be `*positions`."""
    x = require_array(name, x)
    fits = len(x.shape) >= len(axes) - 1 if axes[0][0] == "*" else len(x.shape) == len(axes)
    if not fits:
        shape = f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"
        raise ValueError(
            f"{name}: expected one example of shape {shape}, got {x.shape}; "
            "map positions with layers.each, examples with Objective.on"
        )
    if 0 in x.shape:
        raise ValueError(
            f"{name}: expected one example with a number in it, got shape {x.shape}; "
            "try to leave the layer out"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected floating-point numbers, got {x.dtype}; "
            "cast them with x.astype(float), or look indices up with layers.embedding"
        )
    return x


def require_array(name: str, x: Any) -> jax.ShapeDtypeStruct:
    """The shape and (canonical) dtype of x, which must be an array or describe one."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise TypeError(
            f"{name}: expected one example that is an array, got {type(x).__name__}; "
            "make it one with jnp.asarray, or give each part of a tuple to layers.parallel"
        )
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))


def require_features(name: str, got: int, expected: int) -> None:
    """Refuse inputs with other features than the parameters were made for."""
    if got != expected:
        raise ValueError(
            f"{name}: expected {expected} features, as in its parameters, got {got}; "
            "make the parameters by init(key, x) with an x of the shape of the inputs"
        )


def require_params(name: str, params: PyTree, *entries: str) -> list[Any]:
    """The named entries of a dict of parameters, as JAX arrays."""
    if not (isinstance(params, Mapping) and set(entries) <= set(params)):
        got = list(params) if isinstance(params, Mapping) else type(params).__name__
        raise TypeError(
            f"{name}: expected parameters with the entries {list(entries)}, got {got}; "
            "make them by init(key, x) of the same model"
        )
    return [jax.tree.map(jnp.asarray, params[entry]) for entry in entries]


def require_positions(name: str, x: Any) -> int:
    """The number of positions of an example, the same for each of its arrays."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError(
            f"{name}: expected arrays of shape (positions, ...), as many positions in each, "
            f"got {', '.join(map(str, shapes)) or 'none'}; positions are the first axis"
        )
    return shapes[0][0]


def require_kept(name: str, what: str, before: PyTree, after: PyTree, hint: str) -> None:
    """Refuse what changes shapes or dtypes on the way to where it is its own next input."""

    def dtypes(tree: PyTree) -> PyTree:
        # A number without a dtype of its own (weakly typed) takes that which it meets.
        def one(a: Any, first: Any) -> str | None:
            return None if getattr(first, "weak_type", True) else str(jnp.result_type(a))

        return jax.tree.map(one, tree, before)

    remedies = ("shape", hint), ("dtype", "to cast the results, .astype(x.dtype)")
    for kept, remedy in remedies:
        of = dtypes if kept == "dtype" else lambda tree: jax.tree.map(jnp.shape, tree)
        expected, got = of(before), of(after)
        if expected != got:
            raise ValueError(
                f"{name}: expected a {what} that keeps the {kept} {expected}, got {got}; try "
                f"{remedy}"
            )


def require_layers(name: str, *layers: Any) -> None:
    """Refuse anything that is no layer where layers are expected.

    Args:
        name: of what expects them.
        *layers: what came.

    Raises:
        TypeError: if one of them is no `Layer`.
    """
    for position, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            got = getattr(layer, "__name__", type(layer).__name__)
            raise TypeError(
                f"{name}: expected a Layer, got {got} at position {position}; pass a layer itself, "
                f"not its apply, and a plain function as layers.elementwise({got})"
            )


def axis_in_scope(name: str) -> bool:
    """Whether a `jax.vmap` with this axis name surrounds the code being traced."""
    try:
        jax.lax.axis_size(name)
    except NameError:
        return False
    return True


def positions_in_scope() -> tuple[str, ...]:
    """The names of the axes over which `each` maps the code being traced, outermost first."""
    names: tuple[str, ...] = ()
    while axis_in_scope(name := f"positions {len(names)}"):
        names += (name,)
    return names
