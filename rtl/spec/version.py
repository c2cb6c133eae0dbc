"""The installed version of tilescore, for every floor; the root's ``__version__`` is the same (tested)."""

import importlib.metadata


def version() -> str:
    """As ``0.1.0``."""
    return importlib.metadata.version("tilescore")
