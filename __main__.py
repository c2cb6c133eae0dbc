"""The command line: ``tilescore COMMAND`` or ``python -m tilescore COMMAND``.

Exit status: 0 success; 1 levels that should agree do not, or a check failed; 2 wrong input (one line on standard
error names it, nothing is written).
"""

import sys

from tilescore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
