"""CPU time until an answer, for what a person types most: `python benchmarks/startup.py [--repeat N]`.

Every command runs in a process of its own; user and system time of the child, least of N runs. Python alone is given
beside them, since nothing of tilescore can be faster.
"""

import argparse
import os
import subprocess
import sys

CASES = {
    "python -c pass": ["-c", "pass"],
    "import tilescore": ["-c", "import tilescore"],
    "tilescore --version": ["-m", "tilescore", "--version"],
    "tilescore --help": ["-m", "tilescore", "--help"],
    "tilescore run --help": ["-m", "tilescore", "run", "--help"],
    "tilescore run --tokns 5 (a wrong option)": ["-m", "tilescore", "run", "--tokns", "5"],
    "tilescore tile edge": ["-m", "tilescore", "tile", "edge"],
    "tilescore completion bash": ["-m", "tilescore", "completion", "bash"],
    "tilescore isa (imports numpy)": ["-m", "tilescore", "isa"],
}


def cpu_s(arguments: list[str]) -> float:
    """User and system time of a Python process with these arguments."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    repeat = parser.parse_args().repeat
    print("| command | CPU seconds |")
    print("|---|---|")
    for name, arguments in CASES.items():
        print(f"| `{name}` | {min(cpu_s(arguments) for _ in range(repeat)):.2f} |")


if __name__ == "__main__":
    main()
