"""Floating-point operations: counted before a function runs, or metered while it does.

counting    `count`, from the jaxpr alone: a `while` counts one trip, a `cond` its dearest branch
metering    `metered`, the function with its count as a result: the trips and branches it took
"""

from fnn.flops.counting import Tally as Tally
from fnn.flops.counting import count as count
from fnn.flops.counting import count_within as count_within
from fnn.flops.metering import metered as metered
