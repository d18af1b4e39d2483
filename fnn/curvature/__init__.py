"""Exact curvature from one forward and one backward pass.

`capture` a batch, then ask it: `gram`, `product`, `transpose_product`, `diagonal`, `kronecker`,
`norms`, `jacobian`. `explain` tells what the capture of a model will cost, leaf by leaf.
`gauss_newton_system` and `hessian_system` turn a value function into the system that `solvers`
solve; `hessian`, `gauss_newton` and `fisher` are its curvature as linear maps on trees, and
`operator_of` makes one of a system;
`accelerations` are what its models lack to be linear along a direction.
`spectrum` has their eigenvalues, and tells minima from saddles.
`structure` reads which leaves have Kronecker factors, `kronecker_blocks` makes them.
`laplace` turns the curvature into error bars, of parameters and of predictions; `uncertainty` does
for a fit of few parameters, without a prior.
`implicit` differentiates a solution in the data and numbers that made it.
"""

from fnn.capture import Captured as Captured
from fnn.capture import Kronecker as Kronecker
from fnn.capture import capture as capture
from fnn.capture import diagonal as diagonal
from fnn.capture import explain as explain
from fnn.capture import gram as gram
from fnn.capture import jacobian as jacobian
from fnn.capture import kronecker as kronecker
from fnn.capture import norms as norms
from fnn.capture import product as product
from fnn.capture import transpose_product as transpose_product
from fnn.curvature import spectrum as spectrum
from fnn.curvature.evidence import evidence as evidence
from fnn.curvature.evidence import half_squared_norm as half_squared_norm
from fnn.curvature.implicit import implicit as implicit
from fnn.curvature.laplace import Laplace as Laplace
from fnn.curvature.laplace import Prediction as Prediction
from fnn.curvature.laplace import laplace as laplace
from fnn.curvature.laplace import uncertainty as uncertainty
from fnn.curvature.near import share_out as share_out
from fnn.curvature.operators import Operator as Operator
from fnn.curvature.operators import fisher as fisher
from fnn.curvature.operators import gauss_newton as gauss_newton
from fnn.curvature.operators import hessian as hessian
from fnn.curvature.operators import operator_of as operator_of
from fnn.curvature.quadratic import Quadratic as Quadratic
from fnn.curvature.quadratic import accelerations as accelerations
from fnn.curvature.quadratic import gauss_newton_system as gauss_newton_system
from fnn.curvature.quadratic import hessian_system as hessian_system
from fnn.curvature.structure import Blocks as Blocks
from fnn.curvature.structure import Factors as Factors
from fnn.curvature.structure import Structure as Structure
from fnn.curvature.structure import kronecker_blocks as kronecker_blocks
from fnn.curvature.structure import structure as structure

__all__ = [
    "Blocks",
    "Captured",
    "Factors",
    "Kronecker",
    "Laplace",
    "Operator",
    "Prediction",
    "Quadratic",
    "Structure",
    "accelerations",
    "capture",
    "diagonal",
    "explain",
    "fisher",
    "gauss_newton",
    "gauss_newton_system",
    "gram",
    "hessian",
    "hessian_system",
    "implicit",
    "jacobian",
    "kronecker",
    "kronecker_blocks",
    "laplace",
    "norms",
    "operator_of",
    "product",
    "spectrum",
    "structure",
    "transpose_product",
    "uncertainty",
]
__dir__ = __all__.copy
