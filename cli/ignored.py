"""An option that would be ignored is an error: it says that its user expects something else."""

import argparse

from ..compiler.checkpoint import draws
from ..compiler.layers import ATTENDING, ROUTED, Workload
from ..compiler.routing import depends_on_data, is_drawn
from ..rtl.spec.errors import WorkloadError

OF_A_LAYER = ("layer", "phase", "tokens", "context", "batch", "mask", "routing", "weights", "schedule",
              "softmax_block", "ignore_key", "layer_index")
"""Options that mean nothing without a layer; those that a command does not have are not given."""


def refuse(arguments: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Raise `WorkloadError` for the first of the options ``names`` that is on the command line."""
    for name in names:
        if name in arguments.given:
            value = getattr(arguments, name)
            shown = ", ".join(value) if isinstance(value, list) else value
            raise WorkloadError(f"--{name.replace('_', '-')} {shown}: {why}")


def check_layer_options(arguments: argparse.Namespace, layers: tuple[str, ...], data: bool) -> None:
    """Options that none of the layers uses. data: results are computed, not only times."""
    kinds = " and ".join(layers)
    if not set(layers) & set(ATTENDING):
        refuse(arguments, ("mask", "context", "softmax_block"), f"only attention has one, this one is {kinds}")
    if not set(layers) & set(ROUTED):
        refuse(arguments, ("routing",), f"only MoE experts are routed, this one is {kinds}")
    if not data:
        if not set(layers) & set(ROUTED):
            refuse(arguments, ("weights", "seed"), f"the times of {kinds} do not depend on data")
        routing = arguments.routing
        if routing is not None and not depends_on_data(routing):
            refuse(arguments, ("weights",), f"with --routing {routing} the times do not depend on data")
            if not is_drawn(routing):
                refuse(arguments, ("seed",), f"with --routing {routing} the times do not depend on data")


def check_seed(arguments: argparse.Namespace, workload: Workload) -> None:
    """``--seed`` beside a weights file from which everything is taken."""
    drawn = arguments.routing is not None and is_drawn(arguments.routing)
    if arguments.weights and not drawn and not draws(arguments.weights, workload):
        refuse(arguments, ("seed",), f"{arguments.weights} holds the activations too, nothing is drawn")
