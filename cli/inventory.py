"""`tilescore models` and `tilescore doctor`: what is bundled, what is installed."""

import argparse
import json

from ..compiler.layer_readers import LAYERS
from ..compiler.layers import OUTER
from ..compiler.model_layers import layer_of
from ..compiler.models import list_models, load_model
from ..rtl.spec.errors import TilescoreError
from ..sim.hardware.toolchain import doctor_report


def models(arguments: argparse.Namespace) -> int:
    """Print the bundled models, which of their layers are built (of a mixture the first of a kind), and whether all are
    that `tilescore model` needs; of those built, which presets do not fit and why."""
    from ..compiler.model_report import model_parts
    from ..compiler.preset_fit import preset_exceptions  # asks `auto`, which loads numpy; `doctor` need not

    rows = []
    for name in list_models():
        model, built, exceptions = load_model(name), {}, {}
        for layer in LAYERS:
            try:
                exceptions[f"{layer}_exceptions"] = preset_exceptions(layer_of(model, layer).layer)
                built[layer] = None
            except TilescoreError as error:
                built[layer], exceptions[f"{layer}_exceptions"] = str(error), {}
        try:
            model_parts(model)
            built["whole_model"] = None
        except TilescoreError as error:
            built["whole_model"] = str(error)
        rows.append({"model": name, **built, **exceptions})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['model']:24} " + "   ".join(
            f"{layer.replace('_', ' ')}: {'built' if row[layer] is None else 'not built'}"
            for layer in (*LAYERS, "whole_model")))
        for layer in LAYERS:
            if row[layer] is not None and layer not in ("norm", "decoder", *OUTER):  # these say what their parts say
                print(f"{'':24} {layer} not built: {row[layer]}")
            for preset, reason in row[f"{layer}_exceptions"].items():
                print(f"{'':24} {layer} not on {preset}: {reason}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Print which tools were found."""
    checks = doctor_report()
    if arguments.json:
        print(json.dumps([vars(check) for check in checks], indent=2))
        return 0
    for check in checks:
        print(f"{'ok     ' if check.found else 'missing'} {check.name:14} {check.detail}")
        if not check.found:
            print(f"        skipped without it: {check.skipped_without}; to get it: {check.how_to_get}")
    return 0
