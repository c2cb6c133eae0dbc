"""`tilescore formats`: number formats, their error on a tensor, their cost on a layer."""

import argparse
import json

from ..compiler.format_table import (
    describe_formats,
    described_text,
    layer_costs,
    read_tensor,
    tensor_errors,
    text_table,
)
from ..compiler.layers import LAYER_KINDS
from ..compiler.numerics import from_options
from ..rtl.spec.errors import WorkloadError
from ..sim.energy import load_table
from ..sim.lib.progress import Progress
from .ignored import OF_A_LAYER, check_layer_options, refuse
from .layer import chosen_layer, model_of, note, workload_of
from .tiles import tile_of


def formats(arguments: argparse.Namespace) -> int:
    """Up to three tables: the formats, their errors on a tensor, their costs on a layer."""
    if not 1 <= arguments.k <= 1 << 24:
        raise WorkloadError(f"--k: expected an integer from 1 to {1 << 24}, got {arguments.k}")
    if not arguments.model:
        refuse(arguments, (*OF_A_LAYER, "tile", "tile_set", "energy"), "--model is needed too")
    if not arguments.tensor:
        refuse(arguments, ("tensor_name", "scale_rule"), "--tensor is needed too")
    elif arguments.tensor.suffix == ".npy":
        refuse(arguments, ("tensor_name",), "a .npy file holds one tensor, without a name")
    if arguments.model:
        if arguments.layer is None:
            raise WorkloadError(f"--layer is needed with --model; allowed: {', '.join(LAYER_KINDS)}")
        check_layer_options(arguments, (arguments.layer,), data=False)
    parts = {"formats": describe_formats(arguments.acc_bits, arguments.k)}
    if arguments.tensor:
        rule = from_options("mxfp8", scale_rule=arguments.scale_rule).scale_rule
        parts["tensor"] = tensor_errors(read_tensor(arguments.tensor, arguments.tensor_name), rule)
    if arguments.model:
        model, config = model_of(arguments), tile_of(arguments)
        workload = workload_of(arguments, chosen_layer(arguments, arguments.layer, model))
        with Progress(f"compile {arguments.layer}"):
            parts["layer"] = layer_costs(workload, config, load_table(arguments.energy), arguments.routing,
                                         from_options("e4m3", softmax_block=arguments.softmax_block).softmax_block)
        note(model)
    if arguments.json:
        print(json.dumps(parts, indent=2))
    else:
        print("\n\n".join((described_text if name == "formats" else text_table)(rows) for name, rows in parts.items()))
    return 0
