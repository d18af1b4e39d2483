"""fnn: neural networks that are pure functions, trained with curvature as easily as with gradients.

The map. Each floor stands on those below it and imports from nothing else; a test reads it here:

    __main__                    the command `fnn`: race, suite, report, trajectories, plot, ...
    cli                         its words
    commands                    what it does
    play                        the playground: two rules side by side, on a page
    race                        a fair comparison of rules, and its report
    estimators                  `fit` as an estimator of scikit-learn
    training problems plots     `fit`, the one loop, and `fits`; what can be raced; figures
    rules                       SGD to Levenberg-Marquardt: optax transformations
    curvature                   the quadratic of a value function, and what is read off it
    perturbations compression   inputs changed while training; smaller networks
    prediction                  outputs of many examples
    diagnostics backprop        signals and gradients by layer; a step worked by hand
    boltzmann                   machines of hidden units, without a loss
    capture objective           a model's Jacobian, never formed; value functions
    bridges                     modules of flax, equinox and haiku as layers
    solvers batches             linear systems of curvature; the mean over examples
    layers losses data          networks as pairs of pure functions, and what judges them
    activations initializers    what jax.nn lacks
    differential precision      derivatives of a model in its input; its dtypes
    exchange                    parameters in a file that other programs read
    devices                     meshes of devices, threads of LAPACK
    flops                       what a program costs
    programs branches box       jaxprs: read, counted, metered; work that is seldom due; bounds
    reductions products         one number from those of many leaves; products in full precision
    interned names dtypes       equal calls as one object; names; dtypes of several numbers
    arrays foreign              what is no array, and no pure function, and what to try
    requirements locks version  extras that are not installed; files of one process; this release
    progress mappings           how far a work has come, in words; memory that programs hold

`import fnn` is enough: a module is imported when it is first asked for, `fnn.exchange.save`. What
`dir` shows of the package and of each of these modules is all that is public, their `__all__`; the
command `fnn` (`race`, `suite`, `report`, `trajectories`, `plot`, `play`, `rules`,
`problems`) is on top.
"""

from typing import TYPE_CHECKING, Any

from fnn.names import lazily
from fnn.requirements import require

if TYPE_CHECKING:  # for type checkers, which do not follow __getattr__
    from fnn import activations as activations
    from fnn import backprop as backprop
    from fnn import boltzmann as boltzmann
    from fnn import bridges as bridges
    from fnn import compression as compression
    from fnn import curvature as curvature
    from fnn import data as data
    from fnn import devices as devices
    from fnn import diagnostics as diagnostics
    from fnn import differential as differential
    from fnn import estimators as estimators
    from fnn import exchange as exchange
    from fnn import flops as flops
    from fnn import initializers as initializers
    from fnn import layers as layers
    from fnn import losses as losses
    from fnn import objective as objective
    from fnn import perturbations as perturbations
    from fnn import plots as plots
    from fnn import precision as precision
    from fnn import problems as problems
    from fnn import race as race
    from fnn import rules as rules
    from fnn import solvers as solvers
    from fnn import training as training
    from fnn.objective import Objective as Objective
    from fnn.objective import l1 as l1
    from fnn.objective import l2 as l2
    from fnn.objective import penalty as penalty
    from fnn.prediction import predict as predict
    from fnn.training import fit as fit
    from fnn.training import fits as fits
    from fnn.version import __version__ as __version__

__all__ = [
    "Objective",
    "__version__",
    "activations",
    "backprop",
    "boltzmann",
    "bridges",
    "compression",
    "curvature",
    "data",
    "devices",
    "diagnostics",
    "differential",
    "estimators",
    "exchange",
    "fit",
    "fits",
    "flops",
    "initializers",
    "l1",
    "l2",
    "layers",
    "losses",
    "objective",
    "penalty",
    "perturbations",
    "plots",
    "precision",
    "predict",
    "problems",
    "race",
    "rules",
    "solvers",
    "training",
]
__dir__ = __all__.copy
__requires__ = require("fnn", "jax")
__getattr__: Any = lazily(
    "fnn",
    __all__,
    {
        "Objective": "objective",
        "__version__": "version",
        "fit": "training",
        "fits": "training",
        "l1": "objective",
        "l2": "objective",
        "penalty": "objective",
        "predict": "prediction",
    },
)
