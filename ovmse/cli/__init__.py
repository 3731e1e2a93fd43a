"""The command line: ``app`` and ``data`` have the commands, ``terminal`` what they show."""

import time

STARTED = time.monotonic()  # this program, about
