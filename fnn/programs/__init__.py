"""Programs as JAX traced them: read, counted and metered.

equations    one equation as a function, and the arity of a scan
calls        which calls are walked into, and the jaxprs inside an equation
counting     `count`, from the jaxpr alone: a `while` counts one trip, a `cond` its dearest branch
convolutions convolutions in the order of axes that a CPU is fast at in loops
metering     `metered`, the function with its count as a result: the trips and branches it took
digest       `digest`, by which another process knows the same program again
"""

from fnn.programs.calls import INLINED as INLINED
from fnn.programs.calls import bodies as bodies
from fnn.programs.calls import called as called
from fnn.programs.calls import is_mapped_alike as is_mapped_alike
from fnn.programs.convolutions import has_slow_convolutions as has_slow_convolutions
from fnn.programs.convolutions import with_fast_convolutions as with_fast_convolutions
from fnn.programs.counting import Dearest as Dearest
from fnn.programs.counting import Tally as Tally
from fnn.programs.counting import count as count
from fnn.programs.counting import count_within as count_within
from fnn.programs.counting import dearest as dearest
from fnn.programs.digest import digest as digest
from fnn.programs.digest import spelled as spelled
from fnn.programs.equations import evaluation as evaluation
from fnn.programs.equations import scan_arity as scan_arity
from fnn.programs.metering import metered as metered
