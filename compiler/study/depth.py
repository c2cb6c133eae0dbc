"""Deep and narrow against shallow and wide: whole models with as many weights in their decoder layers.

A model is timed as `tilescore model` does it: each distinct layer once, times how often it occurs.
"""

from collections.abc import Sequence

from ..model_layers import distinct_layers
from ..model_report import model_parameters, model_parts
from ..models import ModelConfig, changed_model, load_model
from ..sweep.table import Row, SweepTable
from .study import ENDS, SMALL_MODELS, TILES, Answer, Case, Study, balanced, decode, feed_forward_width, model_of, span
from .versus import certainty, extremes, versus, versus_drawing, versus_table

SHAPES = {"published": 1.0, "deep": 0.5, "wide": 2.0}
"""{name: factor of every width}; the number of layers changes by the inverse square, so that the weights stay."""

SUMMED = ("time_us", "cycles", "read_bytes", *ENDS)
_SLOWER = 1.1


def shape_changes(model: ModelConfig, factor: float) -> str:
    """`model_set` of the model with every width times ``factor`` and layers over its square."""
    key, width = feed_forward_width(model)
    sizes = {"hidden_size": model.hidden_size, "num_attention_heads": model.num_attention_heads,
             "num_key_value_heads": model.num_key_value_heads or model.num_attention_heads,
             key: width}
    layers = round((model.num_hidden_layers or 1) / factor ** 2)
    return "+".join([f"num_hidden_layers={max(1, layers)}",
                     *(f"{name}={round(size * factor)}" for name, size in sizes.items())])


def _points(models: Sequence[str]) -> tuple[dict, list[Case]]:
    cases: list[Case] = []
    for name in models:
        for factor in SHAPES.values():
            base: Case = {"model": name, "model_set": shape_changes(load_model(name), factor)}
            shaped = changed_model(load_model(name), str(base["model_set"]))
            for batch in (1, 16):
                cases += [{**base, **decode(batch), "layer": outer} for outer in ("embedding", "head")]
            cases += [{**base, **point, **balanced(name), "layer": "decoder", "layer_index": kind.indices[0]}
                      for point in (decode(1, 1024), decode(16, 1024), decode(1, 8192))
                      for kind in distinct_layers(shaped)]
    return {"tile": TILES}, cases


def whole_models(table: SweepTable) -> SweepTable:
    """A row per model, shape, operating point and tile: sums of `SUMMED` over its layers, or the first error."""
    def place(row: Row) -> tuple:
        return row["model"], row["model_set"], row["tile"], row["batch"]

    outer: dict[tuple, list[Row]] = {}
    decoders: dict[tuple, list[Row]] = {}
    for row in table.rows:
        if row["layer"] == "decoder":
            decoders.setdefault((*place(row), row["context"]), []).append(row)
        else:
            outer.setdefault(place(row), []).append(row)
    rows = []
    for key, layers in decoders.items():
        counts = {kind.indices[0]: kind.count for kind in distinct_layers(model_of(layers[0]))}
        parts = [(counts[row["layer_index"]], row) for row in layers] + [(1, row) for row in outer[key[:-1]]]
        error = next((row["error"] for _, row in parts if row["error"] is not None), None)
        sums = {} if error else {name: sum(count * row[name] for count, row in parts) for name in SUMMED}
        rows.append({name: layers[0][name] for name in ("model", "model_set", "tile", "phase", "tokens", "context",
                                                       "batch")} | sums | {"error": error})
    return SweepTable(given=table.given, rows=rows)


def shape_of(row: Row) -> str:
    model = load_model(row["model"])
    return next(name for name, factor in SHAPES.items() if shape_changes(model, factor) == row["model_set"])


def _answer(table: SweepTable) -> Answer:
    found = versus(whole_models(table), shape_of, "published")
    deep, wide = ([one for one in found if one.name == name] for name in ("deep", "wide"))
    shapes = []
    for name in dict.fromkeys(row["model"] for row in table.rows):
        model = load_model(name)
        each = [changed_model(model, shape_changes(model, factor)) for factor in SHAPES.values()]
        shapes.append(f"{name} " + ", ".join(
            f"{shaped.num_hidden_layers} x {shaped.hidden_size} ({model_parameters(model_parts(shaped)) / 1e9:.2f} B)"
            for shaped in each))
    head, rows = versus_table(found, "shape", "published")
    return Answer(
        stands=min(one.time for one in deep) >= _SLOWER,
        sentences=[f"Four times the layers at half the width take {extremes(deep)} of a step's time; a quarter of the "
                   f"layers at twice the width {extremes(wide)}.",
                   "Layers x hidden size, with all parameters, embedding and head included: " + "; ".join(shapes) + ".",
                   f"The bytes read change to {span([one.ratio('read_bytes') for one in deep])} when deep: the cache "
                   "doubles and the head halves, while the weights of the decoder layers stay."],
        energy=certainty(found, "the published shape"), head=head, rows=rows, drawn=versus_drawing(found, "published"))


STUDY = Study(
    name="depth", title="Deep and narrow, or shallow and wide",
    claimed="With as many weights in its decoder layers a deeper and narrower model decodes slower: four times the "
            "layers at half the width take at least a tenth more time per step, since layers follow one another.",
    refuted="One deep model in the table whose step takes less than 1.1 of the published model's time.",
    models=SMALL_MODELS, points=_points, answer=_answer)
