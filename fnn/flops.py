"""What a function costs: counted before it runs, or metered while it does.

`count` takes the jaxpr alone: a `while` counts one trip, a `cond` its dearest branch. `metered` is
the function with its count as a result: the trips and branches it took. Both read programs as
`fnn.programs` does.
"""

from fnn.programs import Dearest as Dearest
from fnn.programs import Tally as Tally
from fnn.programs import count as count
from fnn.programs import count_within as count_within
from fnn.programs import dearest as dearest
from fnn.programs import metered as metered

__all__ = ["Dearest", "Tally", "count", "count_within", "dearest", "metered"]
__dir__ = __all__.copy
