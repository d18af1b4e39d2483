"""Rules made of other rules: for some leaves, in phases, for several batches, without arguments.

bounded       within bounds
only          for the leaves that a mask selects
bind          with value, gradient and value function of its own
searched      with the best of several step sizes
phases        one rule after another
accumulate    the Gauss-Newton step of several batches
"""

from fnn.rules.around.accumulate import accumulate as accumulate
from fnn.rules.around.bind import bind as bind
from fnn.rules.around.bounded import BoundedState as BoundedState
from fnn.rules.around.bounded import bounded as bounded
from fnn.rules.around.bounded import projected as projected
from fnn.rules.around.bounded import require_inside as require_inside
from fnn.rules.around.only import only as only
from fnn.rules.around.phases import Until as Until
from fnn.rules.around.phases import phases as phases
from fnn.rules.around.phases import plateau as plateau
from fnn.rules.around.searched import searched as searched
