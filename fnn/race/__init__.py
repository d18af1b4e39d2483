"""The race: rules on one problem, all their trials and seeds in compiled lanes.

entrants   who races, and where each rule's learning rate is looked for
runner     lanes, the choice of a rate, and seconds of a run alone
store      raw runs on disk
report     the table
"""

from fnn.race.entrants import CLASSIC as CLASSIC
from fnn.race.entrants import ENTRANTS as ENTRANTS
from fnn.race.entrants import Entrant as Entrant
from fnn.race.runner import Result as Result
from fnn.race.runner import run as run
