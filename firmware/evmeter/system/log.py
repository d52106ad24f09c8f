"""The firmware's one logger, on micropython-lib's logging.

The root logger is used: in logging 0.5.2 any other has no handler until it is given one, and drops
what it is told. Both that and the current version take this `basicConfig`.
"""

import logging
import sys

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
log = logging.getLogger()
