"""`tilescore formats`: number formats, their error on a tensor, their cost on a layer."""

import argparse
import json

from ..compiler.format_table import describe_formats, layer_costs, read_tensor, tensor_errors, text_table
from ..rtl.config import load_tile
from ..rtl.errors import WorkloadError
from ..sim.energy import load_table
from .layer import needs_model, workload_of


def formats(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.k <= 1 << 24:
        raise WorkloadError(f"--k: expected an integer from 1 to {1 << 24}, got {arguments.k}")
    if not arguments.model:
        needs_model(arguments, "layer", "tokens", "context", "routing")
    if arguments.tensor_name is not None and not arguments.tensor:
        raise WorkloadError(f"--tensor-name {arguments.tensor_name}: --tensor is needed too")
    parts = {"formats": describe_formats(arguments.acc_bits, arguments.k)}
    if arguments.tensor:
        parts["tensor"] = tensor_errors(read_tensor(arguments.tensor, arguments.tensor_name))
    if arguments.model:
        if arguments.layer is None:
            raise WorkloadError("--layer is needed with --model; allowed: attention, moe")
        workload, config = workload_of(arguments, arguments.layer), load_tile(arguments.tile)
        parts["layer"] = layer_costs(workload, config, load_table(arguments.energy), arguments.routing)
    if arguments.json:
        print(json.dumps(parts, indent=2))
    else:
        print("\n\n".join(text_table(rows) for rows in parts.values()))
    return 0
