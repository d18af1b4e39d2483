"""`fit`, the one training loop; `fits`, many at once; `advance`, the pure function; `step`, one."""

from fnn.training.callbacks import Callback as Callback
from fnn.training.checkpoints import Checkpoints as Checkpoints
from fnn.training.fit import Fit as Fit
from fnn.training.fit import fit as fit
from fnn.training.fits import Fits as Fits
from fnn.training.fits import fits as fits
from fnn.training.history import History as History
from fnn.training.loop import Limits as Limits
from fnn.training.loop import Progress as Progress
from fnn.training.loop import Records as Records
from fnn.training.loop import Source as Source
from fnn.training.loop import Stop as Stop
from fnn.training.loop import advance as advance
from fnn.training.loop import judge as judge
from fnn.training.loop import look as look
from fnn.training.loop import start as start
from fnn.training.sources import evaluation_of as evaluation_of
from fnn.training.sources import source_of as source_of
from fnn.training.step import step as step

__all__ = [
    "Callback",
    "Checkpoints",
    "Fit",
    "Fits",
    "History",
    "Limits",
    "Progress",
    "Records",
    "Source",
    "Stop",
    "advance",
    "evaluation_of",
    "fit",
    "fits",
    "judge",
    "look",
    "source_of",
    "start",
    "step",
]
__dir__ = __all__.copy
