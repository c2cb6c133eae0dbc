"""`tilescore tile`, `verilog`, `export` and `isa`: the tile as hardware. Amaranth is loaded when a tile is built."""

import argparse
import json
import sys

from ..rtl.spec.tile_file import tile_toml
from ..sim.lib.progress import Progress
from .files import check_targets, write_text
from .tiles import tile_of


def tile(arguments: argparse.Namespace) -> int:
    """Print a tile as `load_tile` reads it back."""
    config = tile_of(arguments)
    print(json.dumps(config.to_dict(), indent=2) if arguments.json else tile_toml(config).rstrip())
    return 0


def verilog(arguments: argparse.Namespace) -> int:
    """Print or write the Verilog of a tile."""
    from ..rtl.export.verilog import tile_verilog

    config = tile_of(arguments)
    if arguments.output is not None:
        check_targets([arguments.output])
    with Progress(f"generate {config.name}"):
        text = tile_verilog(config)
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        write_text(arguments.output, text)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a folder for FPGA tools."""
    from ..compiler.self_test import self_test
    from ..rtl.export.folder import export_tile

    config = tile_of(arguments)
    with Progress(f"export {config.name}"):
        folder = export_tile(config, arguments.folder, self_test(config), name=arguments.name, force=arguments.force)
    print(f"{folder}: tile {config.name}, configuration {config.digest}")
    return 0


def isa(arguments: argparse.Namespace) -> int:
    """Print the instruction set."""
    from ..rtl.spec.isa import INSTRUCTIONS, layout_of, reference_page

    if arguments.markdown:
        sys.stdout.write(reference_page())
    elif arguments.json:
        print(json.dumps([{"name": s.name, "opcode": s.opcode, "unit": s.unit.name.lower(), "meaning": s.meaning,
                           "fields": [{"name": n, "low": low, "bits": bits} for n, low, bits in layout_of(s)]}
                          for s in INSTRUCTIONS], indent=2))
    else:
        for spec in INSTRUCTIONS:
            print(f"{spec.opcode:2d} {spec.name:8} {spec.unit.name.lower():9} {spec.meaning}")
    return 0
