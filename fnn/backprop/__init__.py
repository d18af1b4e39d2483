"""Back-propagation as on a blackboard: every number of one step, and how to check it.

`jax.grad` computes the same; here one sees it done. Throughout, delta = dE/da, so that a step
subtracts.

serial        forward and backward through a serial network, part by part; `table` prints it
differences   a gradient from function values alone, and `check` of any gradient against it
graph         derivatives on a small computation graph: forward, reverse, and path by path

Back-propagation is a gradient, not an optimizer: what is done with the gradient is up to a rule.
"""

from fnn.backprop.blackboard import Table as Table
from fnn.backprop.blackboard import table as table
from fnn.backprop.differences import Check as Check
from fnn.backprop.differences import check as check
from fnn.backprop.differences import numeric_gradient as numeric_gradient
from fnn.backprop.graph import Node as Node
from fnn.backprop.graph import PathSum as PathSum
from fnn.backprop.graph import evaluate as evaluate
from fnn.backprop.graph import forward as forward
from fnn.backprop.graph import path_sum as path_sum
from fnn.backprop.graph import reverse as reverse
from fnn.backprop.serial import Part as Part
from fnn.backprop.serial import Trace as Trace
from fnn.backprop.serial import trace as trace
from fnn.backprop.serial import value_after as value_after

__all__ = [
    "Check",
    "Node",
    "Part",
    "PathSum",
    "Table",
    "Trace",
    "check",
    "evaluate",
    "forward",
    "numeric_gradient",
    "path_sum",
    "reverse",
    "table",
    "trace",
    "value_after",
]
__dir__ = __all__.copy
