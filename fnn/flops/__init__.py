"""What a function costs: counted before it runs, metered while it does, read when it is compiled.

counting    `count`, from the jaxpr alone: a `while` counts one trip, a `cond` its dearest branch
metering    `metered`, the function with its count as a result: the trips and branches it took
traffic     `collectives`, what several devices send each other
"""

from fnn.flops.counting import Dearest as Dearest
from fnn.flops.counting import Tally as Tally
from fnn.flops.counting import count as count
from fnn.flops.counting import count_within as count_within
from fnn.flops.counting import dearest as dearest
from fnn.flops.metering import metered as metered
from fnn.flops.traffic import Collective as Collective
from fnn.flops.traffic import collectives as collectives

__all__ = [
    "Collective",
    "Dearest",
    "Tally",
    "collectives",
    "count",
    "count_within",
    "dearest",
    "metered",
]
__dir__ = __all__.copy
