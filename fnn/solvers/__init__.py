"""Solvers: from a linear system of curvature to a step.

Every second-order step minimizes one quadratic model of the loss,

    q(d) = g . d + 1/2 d . (C + P) d,        with        (C + P + damping) d = -g.

C is the curvature: `A^T A` with one row of A for each output of each example, or any symmetric
matrix (a Hessian). P is the diagonal curvature of penalties. The damping is a number, or a tree of
numbers, or Marquardt's diagonal. The gradient is kept in two parts, `g = A^T s + h`, because the
part in the range of A^T can be solved among the rows without cancellation. A `System` knows C, P
and A as products; a `RightHandSide` holds `s` and `h`; a `Solver` turns both and a damping into a
`Solution`:

    solution = solvers.dual().solve(system, rhs, damping)       # one trial
    trial = solvers.dual().prepare(system)                      # several trials on one system:
    first, second = trial(rhs, damping), trial(rhs, 4 * damping)    # each costs a factorization

| solver | unknowns | forms | takes |
|---|---|---|---|
| `primal()` | parameters | C, dense | any system with `normal` |
| `dual()` | rows of A | A (1/D) A^T, dense | systems with rows |
| `conjugate_gradients()` | parameters | nothing | any system |
| `absolute()` | eigenvectors of C + P | C, or its part in a subspace | any system; one damping |
| `automatic()` | by counted cost | as chosen by `choose(system)`, which says why | any system |

Conjugate gradients need few iterations where they go through an inverse that is nearly right,
`conjugate_gradients(4, precondition=kronecker)`; see `jacobi`, `kronecker` and `nystrom(rank)`.

All of them give the same step, but `absolute`, which takes the sizes of the eigenvalues and so
differs where one is negative. Beside it, `trust_region` and `cubic` find from an `eigenbasis` the
steps whose length is given, not their damping. A numerical failure is a zero step with `ok` false
and `counts.rejected` one; it never raises and no NaN leaves a solver. `primal` and `dual` stand on
one function, `ladder`.

A system is made of callables that close over arrays, so build it, prepare it and solve it inside
one traced function; only the `Solution` is a plain tree of arrays.
"""

from fnn.solvers.algebra import Formed, formed
from fnn.solvers.automatic import Choice, automatic, choose
from fnn.solvers.conjugate_gradients import conjugate_gradients
from fnn.solvers.dense import dual, primal
from fnn.solvers.descent import Descent, descend
from fnn.solvers.eigen import (
    DENSE,
    Eigenbasis,
    absolute,
    cubic,
    diagonalize,
    eigenbasis,
    lanczos,
    trust_region,
)
from fnn.solvers.ladder import Rungs, Spectrum, ladder, positive, signed
from fnn.solvers.preconditioners import Preconditioner, jacobi, kronecker, nystrom
from fnn.solvers.system import (
    Cost,
    Costs,
    Counts,
    RightHandSide,
    Solution,
    Solver,
    System,
    all_finite,
    from_rows,
    largest_entry,
    needs,
    over,
    spread,
)

__all__ = [
    "DENSE",
    "Choice",
    "Cost",
    "Costs",
    "Counts",
    "Descent",
    "Eigenbasis",
    "Formed",
    "Preconditioner",
    "RightHandSide",
    "Rungs",
    "Solution",
    "Solver",
    "Spectrum",
    "System",
    "absolute",
    "all_finite",
    "automatic",
    "choose",
    "conjugate_gradients",
    "cubic",
    "descend",
    "diagonalize",
    "dual",
    "eigenbasis",
    "formed",
    "from_rows",
    "jacobi",
    "kronecker",
    "ladder",
    "lanczos",
    "largest_entry",
    "needs",
    "nystrom",
    "over",
    "positive",
    "primal",
    "signed",
    "spread",
    "trust_region",
]
__dir__ = __all__.copy
