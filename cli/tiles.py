"""The tile that a command line asks for."""

import argparse

from ..rtl.spec.config import TileConfig, load_tile
from ..rtl.spec.tile_settings import change_tile


def tile_of(arguments: argparse.Namespace) -> TileConfig:
    """``--tile`` with the changes of ``--tile-set``."""
    return change_tile(load_tile(arguments.tile), arguments.tile_set or ())
