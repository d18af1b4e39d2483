"""fnn: neural networks that are pure functions, trained with curvature as easily as with gradients.

The map, each floor standing on those below:

    cli                            fnn race, report, trajectories, plot, rules, problems
    race       plots               a fair comparison of rules, and its figures
    training   problems            `fit`, the one loop; what can be raced
    rules                          SGD to Levenberg-Marquardt: optax transformations
    curvature  backprop            the Jacobian captured, never formed; a step worked by hand
    perturbations                  inputs changed while training: augmentation, noise, attacks
    compression   diagnostics      smaller networks; signals and gradients by layer
    objective  solvers             value functions; linear systems of curvature
    layers     losses   data       networks as pairs of pure functions, and what judges them
    activations   initializers     what jax.nn lacks
    differential   precision       derivatives of a model in its input; its dtypes
    exchange                       parameters in a file that other programs read
"""

from fnn.objective import Objective as Objective
from fnn.objective import l1 as l1
from fnn.objective import l2 as l2
from fnn.objective import penalty as penalty
from fnn.training import fit as fit
