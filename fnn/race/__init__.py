"""The race: rules on one problem by equal terms, and what can be said of it.

Users find in `__all__` what a race is run and read by. The command line also draws reports and
trajectories, looks rules up and names a race's folder, for which this page shows it `report`,
`trajectories`, `entering` and `new_folder`.

entering       how rules enter a race: by name, from files and packages, as they are
entrants       who races: rules, what is tuned of each, their batches
spaces         the ranges of hyperparameters
protocol       the terms: trials, seeds, a budget in any of five costs
search         which settings are tried, and for how long
identity       what makes a race this very race, as digests
laps           the loop of a lane, which ends when its budget is spent
lanes          one rule on one problem, many settings and seeds in one compiled program
alone          one run of it, whose seconds are measured
variants       the programs of a rule for all its settings
meter          what its steps cost, counted while they run
pricing        what a budget in seconds buys, and whether it was spent
compiling      what all compiled programs of a race share
failures       whose failure an error is: a rule's own leaves out that rule alone
runner         `run`, from rules and terms to a store
remote         the same across machines, as tasks on Ray
records        what is written down: a plan, a run, a choice, seconds
store          what a race leaves on disk, and goes on from
result         what tables and figures are made of
report         tables, figures and the page of a race
trajectories   the paths of rules over a plane, which are drawn and not raced
"""

from fnn.requirements import require

__requires__ = require("race", "matplotlib", "rich", "scipy")

from fnn.race import report as report
from fnn.race import trajectories as trajectories
from fnn.race.entering import entering as entering
from fnn.race.entrants import CLASSIC as CLASSIC
from fnn.race.entrants import ENTRANTS as ENTRANTS
from fnn.race.entrants import Entrant as Entrant
from fnn.race.entrants import entrant as entrant
from fnn.race.protocol import Protocol as Protocol
from fnn.race.result import Race as Race
from fnn.race.result import Result as Result
from fnn.race.runner import run as run
from fnn.race.spaces import Linear as Linear
from fnn.race.spaces import Log as Log
from fnn.race.spaces import OneOf as OneOf
from fnn.race.spaces import Whole as Whole
from fnn.race.store import new_folder as new_folder
from fnn.race.store import read as read

__all__ = [
    "CLASSIC",
    "ENTRANTS",
    "Entrant",
    "Linear",
    "Log",
    "OneOf",
    "Protocol",
    "Race",
    "Result",
    "Whole",
    "entrant",
    "read",
    "run",
]
__dir__ = __all__.copy
