"""How long numpy takes to quantize a weight matrix of DeepSeek-V3's expert size to each format.

    python benchmarks/quantize.py [--write]

The machine is shared, so seconds are those of the process (one thread), and each row also gives the time as a multiple
of copying the matrix in the same run. ``--write`` puts the table into benchmarks/quantize.md.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.sim.numerics.quantizers import quantize_block

ROWS, K = 7168, 2048
REPEATS = 5
LIMIT_S = 0.5
"""What the project asks of every format."""


def best_of(action: Callable[[], object]) -> float:
    """CPU seconds of the fastest of some runs."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true")
    write = options.parse_args().write
    x = np.random.default_rng(0).standard_normal((ROWS, K), dtype=np.float32)
    copy = best_of(x.copy)
    lines = ["# Quantize", "",
             f"Made by `python benchmarks/quantize.py --write`: {ROWS} x {K} float32, CPU seconds of one process, best "
             f"of {REPEATS}. A *copy* is numpy's copy of the matrix in the same run, {copy * 1000:.0f} ms. Every "
             f"format must stay below {LIMIT_S} s.", "",
             "| format | rows per scale | seconds | copies | ns per element |", "|---|---|---|---|---|"]
    for fmt in QUANT_FORMATS.values():
        for block_rows in (1, 128) if fmt.block == 128 else (1,):
            seconds = best_of(lambda fmt=fmt, block_rows=block_rows: quantize_block(x, fmt, block_rows=block_rows))
            shared = block_rows if fmt.block else "all"
            lines.append(f"| {fmt.name} | {shared} | {seconds:.3f} | {seconds / copy:.1f} | "
                         f"{seconds / x.size * 1e9:.1f} |")
            if seconds > LIMIT_S:
                raise SystemExit(f"{fmt.name} takes {seconds:.2f} s, more than {LIMIT_S} s")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if write:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
