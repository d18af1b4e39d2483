"""Derivatives on a small computation graph: forward, reverse, and path by path.

A graph is a dictionary of nodes in an order in which they can be computed, each with a function
and the names of its parents; names that are no nodes are inputs. d = a (a + b) is

    {"s": Node(operator.add, ("a", "b")), "d": Node(operator.mul, ("a", "s"))}

Every edge carries the local derivative of the child in that parent, by `jax.grad`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Scalar


class Node(NamedTuple):
    """One scalar, computed from others.

    Attributes:
        fn: a scalar function of as many scalars as there are parents.
        parents: the names of the parents; one may come twice.
    """

    fn: Callable[..., Scalar]
    parents: tuple[str, ...]


Graph: TypeAlias = Mapping[str, Node]
Values: TypeAlias = Mapping[str, ArrayLike]


class PathSum(NamedTuple):
    """A derivative, path by path.

    Attributes:
        derivative: the sum over all paths of the products of the local derivatives on each.
        paths: the number of paths.
    """

    derivative: Scalar
    paths: int


def evaluate(graph: Graph, inputs: Values) -> dict[str, Scalar]:
    """The value of every input and node.

    Args:
        graph: its nodes in order.
        inputs: the inputs, by name.

    Returns:
        The values, by name.

    Raises:
        ValueError: if a node's parent is neither an input nor an earlier node, or an input has the
            name of a node.

    Example:
        >>> import operator
        >>> float(evaluate({"z": Node(operator.mul, ("x", "y"))}, {"x": 3.0, "y": 4.0})["z"])
        12.0
    """
    values = {name: jnp.asarray(value, float) for name, value in inputs.items()}
    for name, node in graph.items():
        missing = [parent for parent in node.parents if parent not in values]
        if missing or name in values:
            names = ", ".join(values)
            raise ValueError(
                f"graph: expected node {name!r} to be new and its parents among {names}, got "
                f"{node.parents}; try the nodes in the order of their computation"
            )
        values[name] = node.fn(*(values[parent] for parent in node.parents))
    return values


def forward(graph: Graph, inputs: Values, wrt: str) -> dict[str, Scalar]:
    """The derivative of every node in one input: tangents, from the inputs on.

    It takes one sweep for each input. (The forward pass of a network is another thing: it computes
    values.)

    Args:
        graph: its nodes in order.
        inputs: the inputs, by name.
        wrt: the input to derive in.

    Returns:
        The derivatives, by name.

    Example:
        >>> import operator
        >>> graph = {"s": Node(operator.add, ("a", "b")), "d": Node(operator.mul, ("a", "s"))}
        >>> float(forward(graph, {"a": 4.0, "b": 3.0}, "a")["d"])
        11.0
    """
    values = evaluate(graph, inputs)
    _require_name("forward", "an input", wrt, inputs)
    tangents = {name: jnp.asarray(float(name == wrt)) for name in inputs}
    for name, node in graph.items():
        slopes = _local(node, values)
        terms = (s * tangents[parent] for s, parent in zip(slopes, node.parents, strict=True))
        tangents[name] = sum(terms, jnp.zeros(()))
    return tangents


def reverse(graph: Graph, inputs: Values, output: str) -> dict[str, Scalar]:
    """The derivative of one node in every other: adjoints, from the output back.

    It takes one sweep for all inputs, and is back-propagation.

    Args:
        graph: its nodes in order.
        inputs: the inputs, by name.
        output: the node to derive.

    Returns:
        The derivatives, by name.

    Example:
        >>> import operator
        >>> graph = {"s": Node(operator.add, ("a", "b")), "d": Node(operator.mul, ("a", "s"))}
        >>> adjoints = reverse(graph, {"a": 4.0, "b": 3.0}, "d")
        >>> float(adjoints["a"]), float(adjoints["b"])
        (11.0, 4.0)
    """
    values = evaluate(graph, inputs)
    _require_name("reverse", "a node", output, graph)
    adjoints = {name: jnp.asarray(float(name == output)) for name in values}
    for name, node in reversed([*graph.items()]):
        for slope, parent in zip(_local(node, values), node.parents, strict=True):
            adjoints[parent] += adjoints[name] * slope
    return adjoints


def path_sum(graph: Graph, inputs: Values, wrt: str, output: str) -> PathSum:
    """A derivative as the sum over all paths of the products of the derivatives on each.

    The result is right and the way hopeless: the number of paths grows exponentially with depth,
    where `reverse` takes every edge once.

    Args:
        graph: its nodes in order.
        inputs: the inputs, by name.
        wrt: an input or node.
        output: the node to derive.

    Returns:
        The derivative and the number of paths.

    Example:
        >>> import operator
        >>> graph = {"s": Node(operator.add, ("a", "b")), "d": Node(operator.mul, ("a", "s"))}
        >>> derivative, paths = path_sum(graph, {"a": 4.0, "b": 3.0}, "a", "d")
        >>> float(derivative), paths
        (11.0, 2)
    """
    values = evaluate(graph, inputs)
    _require_name("path_sum", "a node", output, graph)
    _require_name("path_sum", "a node or input", wrt, values)
    edges = {
        name: [*zip(_local(node, values), node.parents, strict=True)]
        for name, node in graph.items()
    }
    products: list[Scalar] = []

    def walk(name: str, product: Scalar) -> None:
        if name == wrt:
            products.append(product)
        for slope, parent in edges.get(name, ()):
            walk(parent, product * slope)

    walk(output, jnp.ones(()))
    return PathSum(sum(products, jnp.zeros(())), len(products))


def _local(node: Node, values: Mapping[str, Scalar]) -> tuple[Scalar, ...]:
    """The derivatives of a node in each of its parents."""
    if not node.parents:
        return ()
    places = tuple(range(len(node.parents)))
    return jax.grad(node.fn, places)(*(values[parent] for parent in node.parents))


def _require_name(function: str, what: str, name: str, names: Mapping) -> None:
    """Raises a ValueError where a name is not among the names of `what`."""
    if name not in names:
        raise ValueError(
            f"{function}: expected the name of {what}, got {name!r}; try {', '.join(names)}"
        )
