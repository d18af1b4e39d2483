"""Bridges: modules of flax, equinox and haiku as layers, batch normalization and dropout included.

    model, back = bridges.from_nnx(network)          # a Layer, and the way back
    params = model.init(jax.random.key(0), inputs[0])

A stateless module needs no bridge: any function `(params, x) -> outputs` is a model. One with batch
normalization changes running averages while it trains, and one with dropout draws. A bridge makes
of it a `layers.Layer`, a pure function of one example:

| called with | batch normalization | dropout |
|---|---|---|
| a key (training) | means over the examples of the batch | on, drawn from that key |
| no key (inference) | the statistics in its parameters | off |

Its parameters are `Variables(params, statistics)`. No gradient reaches the statistics, and training
does not read them: its outputs, and so its steps, are those of the framework's own loop. In place
of running averages, `layers.calibrate(model, params, inputs)` sets the statistics after training to
those that the module itself would settle at if it saw all of `inputs` again and again, with dropout
off. In float32 they were those of all inputs to 1e-6 at a momentum of 0.99 and to 2e-4 at 0.9999:
what momentum and 1 - momentum, rounded, lack to a sum of 1.

`back(params)` gives the framework's own object, with parameters and statistics in it.

Where a module of batch normalization names no axis, the bridge gives its own copy the axis
`examples`, and inside `layers.each` that of the positions, too; the module is left as it is. Batch
normalization is known by the framework's own class: that of another class is refused, because
nobody can tell it to look at the batch.
"""

from fnn.bridges.equinox import from_equinox
from fnn.bridges.haiku import from_haiku
from fnn.bridges.linen import from_flax
from fnn.bridges.nnx import from_nnx
from fnn.bridges.variables import Bridge, Variables
from fnn.bridges.variables import has_statistics as has_statistics

__all__ = ["Bridge", "Variables", "from_equinox", "from_flax", "from_haiku", "from_nnx"]
__dir__ = __all__.copy
