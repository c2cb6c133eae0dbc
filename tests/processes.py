"""Commands in processes of their own."""

import sys

AS_ON_A_TERMINAL = [sys.executable, "-c", """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""]
"""Before a command: signals end it, also where the tests themselves run under nohup or in the background."""
