"""Problems: what can be raced. Data, a network, a loss, a measure and a budget under one name.

The target of a problem comes from its source, or it is what Adam, tuned, reaches within the budget,
and about a tenth more: `benchmarks/targets.py` prints that.

registry         problems by name: `PROBLEMS`, `get`, `load` for a file of yours, `SUITES` of them
problem          what a problem is
supervised       inputs with targets: what most are put together from
lectures         XOR, parity, fits by three units
classification   digits, iris, wine, breast-cancer, moons, circles, a sparse logistic regression
regression       diabetes, Mackey-Glass, a robot's arm
autoencoders     plain, denoising and variational, of digits
images           convolutions and residual blocks: digits, MNIST, Fashion-MNIST, CIFAR-10
text             characters of a grammar or of a text of yours: LSTM, transformer, GRU
surfaces         bowl, ravine, saddle, Rosenbrock, Beale: two parameters, to be drawn
minpack          the MINPACK suite of least squares
deepobs          a noisy quadratic
matlab           SIN, PARITY, CANCER, DIABETES of MATLAB's table
equations        partial differential equations: Poisson, Helmholtz, Allen-Cahn, heat
"""

from fnn.problems.autoencoders import gaussian_divergence as gaussian_divergence
from fnn.problems.autoencoders import negative_evidence_bound as negative_evidence_bound
from fnn.problems.autoencoders import variational as variational
from fnn.problems.problem import COSTS as COSTS
from fnn.problems.problem import Budget as Budget
from fnn.problems.problem import Measure as Measure
from fnn.problems.problem import Problem as Problem
from fnn.problems.problem import accuracy as accuracy
from fnn.problems.registry import DATA as DATA
from fnn.problems.registry import PROBLEMS as PROBLEMS
from fnn.problems.registry import SUITES as SUITES
from fnn.problems.registry import get as get
from fnn.problems.registry import load as load
from fnn.problems.supervised import Score as Score
from fnn.problems.supervised import network as network
from fnn.problems.supervised import standardized as standardized
from fnn.problems.supervised import supervised as supervised
from fnn.problems.surfaces import SURFACES as SURFACES
from fnn.problems.surfaces import Surface as Surface
from fnn.problems.text import entropy_of_sentences as entropy_of_sentences
from fnn.problems.text import sentences as sentences

__all__ = [
    "COSTS",
    "DATA",
    "PROBLEMS",
    "SUITES",
    "SURFACES",
    "Budget",
    "Measure",
    "Problem",
    "Score",
    "Surface",
    "accuracy",
    "entropy_of_sentences",
    "gaussian_divergence",
    "get",
    "load",
    "negative_evidence_bound",
    "network",
    "sentences",
    "standardized",
    "supervised",
    "variational",
]
__dir__ = __all__.copy
