"""Layers: pairs of pure functions, and how to put them together.

A `Layer` is `init(key, x) -> params` and `apply(params, x, *, key=None) -> outputs`. What all
layers of this package have in common:

- x is ONE example, with features on its last axis; there is no batch axis anywhere. `each` maps a
  layer over positions; examples are mapped by `fnn.Objective` (or by `jax.vmap`).
- Parameters are plain containers of arrays (dicts for layers, tuples for combinators, `()` for
  layers without any), in the dtype of x, or in JAX's default float dtype where x is of integers.
- A key means training (dropout drops, batch normalization looks at the batch), no key inference.
- Weights start from `jax.nn.initializers.lecun_normal()` and biases at zero, unless an argument
  `weight` or `bias` brings another initializer.
- Outputs have the dtype to which inputs and parameters promote.
- What cannot work is refused while tracing, before anything runs, and counts that are no whole
  numbers above zero already when the layer is made.

Activations are functions: `elementwise(jax.nn.relu)`. So are the ways of tying weights, and all
else that a function `(params, x) -> outputs` can say: a model need not be a `Layer`.
"""

from fnn.layers.attention import causal, multi_head_attention, scaled_dot_product_attention
from fnn.layers.combinators import (
    each,
    fan_in_add,
    fan_in_concatenate,
    fan_out,
    parallel,
    residual,
    serial,
)
from fnn.layers.layer import Layer
from fnn.layers.layer import require_layers as require_layers
from fnn.layers.layer import without_key as without_key
from fnn.layers.linear import conv, dense, embedding, maxout, radial
from fnn.layers.normalization import batch_norm, calibrate, group_norm, layer_norm, rms_norm
from fnn.layers.recurrent import Cell, elman, gru, lstm, scan_over
from fnn.layers.table import Row, Summary, summary
from fnn.layers.units import dropout, elementwise, prelu
from fnn.layers.window import average_pool, flatten, max_pool

__all__ = [
    "Cell",
    "Layer",
    "Row",
    "Summary",
    "average_pool",
    "batch_norm",
    "calibrate",
    "causal",
    "conv",
    "dense",
    "dropout",
    "each",
    "elementwise",
    "elman",
    "embedding",
    "fan_in_add",
    "fan_in_concatenate",
    "fan_out",
    "flatten",
    "group_norm",
    "gru",
    "layer_norm",
    "lstm",
    "max_pool",
    "maxout",
    "multi_head_attention",
    "parallel",
    "prelu",
    "radial",
    "residual",
    "rms_norm",
    "scaled_dot_product_attention",
    "scan_over",
    "serial",
    "summary",
]
__dir__ = __all__.copy
