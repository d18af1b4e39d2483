"""Figures: functions that draw on matplotlib axes and return them.

style        the color, dashes and marker of each label
panels       what a figure of measurements shows, as data, for matplotlib and a race's page alike
curves       what was measured of several things, under labels: curves, arrivals, ranks
history      how a training went
landscape    surfaces over the plane and paths on them, still and moving
codes        examples in the plane of a code
networks     what a network does: regions, fits, features, mistakes, the loss around it
portraits    all of these that a trained model allows
"""

from fnn.requirements import require

__requires__ = require("plots", "matplotlib")

from fnn.plots.codes import codes as codes
from fnn.plots.curves import arrivals as arrivals
from fnn.plots.curves import curves as curves
from fnn.plots.curves import profile as profile
from fnn.plots.curves import ranks as ranks
from fnn.plots.curves import sensitivity as sensitivity
from fnn.plots.film import film as film
from fnn.plots.film import require_film as require_film
from fnn.plots.history import history as history
from fnn.plots.landscape import Landscape as Landscape
from fnn.plots.landscape import animate as animate
from fnn.plots.landscape import contours as contours
from fnn.plots.landscape import landscape_figure as landscape_figure
from fnn.plots.landscape import paths as paths
from fnn.plots.networks import along as along
from fnn.plots.networks import confusion as confusion
from fnn.plots.networks import decision_regions as decision_regions
from fnn.plots.networks import features as features
from fnn.plots.networks import function_fit as function_fit
from fnn.plots.networks import loss_slice as loss_slice
from fnn.plots.networks import loss_surface as loss_surface
from fnn.plots.networks import spectrum as spectrum
from fnn.plots.panels import Band as Band
from fnn.plots.panels import Curve as Curve
from fnn.plots.panels import LossPanel as LossPanel
from fnn.plots.panels import Ribbon as Ribbon
from fnn.plots.panels import Sweep as Sweep
from fnn.plots.panels import across as across
from fnn.plots.panels import arrival_panel as arrival_panel
from fnn.plots.panels import band as band
from fnn.plots.panels import curve_panel as curve_panel
from fnn.plots.panels import jitter as jitter
from fnn.plots.panels import profile_panel as profile_panel
from fnn.plots.panels import rank_panel as rank_panel
from fnn.plots.panels import staircase as staircase
from fnn.plots.panels import sweep_panel as sweep_panel
from fnn.plots.panels import window as window
from fnn.plots.portraits import portraits as portraits
from fnn.plots.style import COLORS as COLORS
from fnn.plots.style import Style as Style
from fnn.plots.style import style as style
from fnn.plots.style import styles as styles

__all__ = [
    "COLORS",
    "Band",
    "Curve",
    "Landscape",
    "Style",
    "Sweep",
    "across",
    "along",
    "animate",
    "arrivals",
    "band",
    "codes",
    "confusion",
    "contours",
    "curves",
    "decision_regions",
    "features",
    "film",
    "function_fit",
    "history",
    "jitter",
    "landscape_figure",
    "loss_slice",
    "loss_surface",
    "paths",
    "portraits",
    "profile",
    "ranks",
    "sensitivity",
    "spectrum",
    "staircase",
    "style",
    "styles",
    "window",
]
__dir__ = __all__.copy
