"""`tilescore verilog`, `export` and `isa`: the tile as hardware. Amaranth is loaded when a tile is built."""

import argparse
import json
import sys

from ..rtl.config import load_tile
from .files import check_targets, write_text


def verilog(arguments: argparse.Namespace) -> int:
    from ..rtl.verilog import tile_verilog

    config = load_tile(arguments.tile)
    if arguments.output is None:
        sys.stdout.write(tile_verilog(config))
    else:
        check_targets([arguments.output])
        write_text(arguments.output, tile_verilog(config))
    return 0


def export(arguments: argparse.Namespace) -> int:
    from ..rtl.export import export_tile

    config = load_tile(arguments.tile)
    folder = export_tile(config, arguments.folder, force=arguments.force)
    print(f"{folder}: tile {config.name}, configuration {config.digest}")
    return 0


def isa(arguments: argparse.Namespace) -> int:
    from ..rtl.isa import INSTRUCTIONS, layout_of, reference_page

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
