"""The playground: two rules side by side on a small network, on a page and in a film.

settings    what is chosen, as one tuple, which a link holds whole
task        what settings ask to be learned, and the compiled functions that look
match       two rules on a task: their steps, their seconds, what is seen on the way
marks       what panels are made of, as SVG and painted
networks    pictures of a network: its regions, its units, its weights
panels      what is shown of a match
session     one visitor's training, in a thread
page        what one visitor sees and does
server      the server on the loopback address
recording   a match as a film
"""

from fnn.play.recording import record as record
from fnn.play.server import serve as serve
from fnn.play.settings import Settings as Settings
from fnn.play.settings import link as link
from fnn.play.settings import of_link as of_link

__all__ = ["Settings", "link", "of_link", "record", "serve"]
__dir__ = __all__.copy
