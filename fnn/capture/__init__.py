"""One model's Jacobian on a batch, captured and never formed.

views       what a value is made of, entry by entry
uses        equations that are linear in a parameter, and their factored forms
program     the walk through a model's jaxpr that finds them
captured    `capture`, and the products with what it keeps
gram        the Gram matrix of its rows, and their norms
explain     what a capture of a model will cost, leaf by leaf

`__all__` is what `fnn.curvature` shows to users; the other names are for the rest of the house.
"""

from fnn.capture.captured import Captured as Captured
from fnn.capture.captured import Kronecker as Kronecker
from fnn.capture.captured import blockwise as blockwise
from fnn.capture.captured import capture as capture
from fnn.capture.captured import diagonal as diagonal
from fnn.capture.captured import diagonal_of as diagonal_of
from fnn.capture.captured import examples_at_once as examples_at_once
from fnn.capture.captured import jacobian as jacobian
from fnn.capture.captured import kronecker as kronecker
from fnn.capture.captured import outer as outer
from fnn.capture.captured import outer_sums as outer_sums
from fnn.capture.captured import product as product
from fnn.capture.captured import scale as scale
from fnn.capture.captured import square as square
from fnn.capture.captured import square_share as square_share
from fnn.capture.captured import transpose_product as transpose_product
from fnn.capture.explain import explain as explain
from fnn.capture.gram import gram as gram
from fnn.capture.gram import gram_flops as gram_flops
from fnn.capture.gram import norms as norms
from fnn.capture.program import Program as Program
from fnn.capture.program import settle as settle
from fnn.capture.program import trace as trace
from fnn.capture.views import aval as aval

__all__ = [
    "Captured",
    "Kronecker",
    "capture",
    "diagonal",
    "explain",
    "gram",
    "jacobian",
    "kronecker",
    "norms",
    "product",
    "transpose_product",
]
