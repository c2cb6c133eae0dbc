"""From a module of the exported Verilog to the Python class it was made of.

Reports of FPGA tools name generated modules and paths of instances; the map says where to read on.
"""

import inspect
import json
from collections.abc import Mapping


def source_map(classes: Mapping[str, type]) -> str:
    """JSON: for every module of ``classes`` its class and the line that the class begins at, ``package/file.py:line``.

    Files are named from the folder that the package is in, because an export must not depend on where that is.
    """
    modules = {name: {"class": f"{cls.__module__}.{cls.__qualname__}", "source": _place(cls)}
               for name, cls in sorted(classes.items())}
    return json.dumps({"modules": modules}, indent=2) + "\n"


def _place(cls: type) -> str:
    return f"{cls.__module__.replace('.', '/')}.py:{inspect.getsourcelines(cls)[1]}"
