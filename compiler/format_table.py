"""What `tilescore formats` prints: each format, its error on a tensor, its bytes and energy on a layer."""

import textwrap
from pathlib import Path

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, WorkloadError
from ..rtl.spec.formats import ELEMENT_PAIRS, block_magnitude_bits, exact_elements, headroom
from ..rtl.spec.isa import Scale, ScaleRule
from ..rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from ..sim.energy import EnergyTable
from ..sim.simulate import simulate
from .compile import compile_layer
from .format_names import SOFTMAX_BLOCK
from .formats import PRESETS
from .layers import Workload
from .numerics import Numerics
from .products import useful_macs
from .quantize import stored_values, tensor_factor
from .safetensors_file import SafetensorsFile

TEXT_WIDTH = 120

SCALE_RULES = {
    Scale.NONE: "one FP32 scale per tensor: largest magnitude / largest value",
    Scale.E4M3: "E4M3 per block, RNE(largest magnitude / 6 / tensor scale), and one FP32 tensor scale",
    Scale.E8M0: "power of two per block: FLOOR (default), RCEIL or EVEN",
    Scale.FP32: "FP32 per block, largest magnitude / largest value",
}


def describe_formats(acc_bits: int, k: int) -> list[dict]:
    """One row per tensor format; ``exact`` is for a product of two tensors of it with ``k`` elements."""
    return [_describe(f, acc_bits, k) for f in TENSOR_FORMATS.values()]


def _describe(tensor_format: TensorFormat, acc_bits: int, k: int) -> dict:
    spec = tensor_format.element
    return {
        "format": tensor_format.name, "element_bits": tensor_format.bits,
        "max": spec.max_finite, "smallest": 2.0 ** spec.lsb_exponent, "block": tensor_format.block,
        "scale_rule": SCALE_RULES[tensor_format.scale], "bytes_per_element": tensor_format.bytes_per_element,
        "exact": _exactness(tensor_format, acc_bits, k), "meaning": tensor_format.meaning,
    }


def _exactness(tensor_format: TensorFormat, acc_bits: int, k: int) -> str:
    """When a sum over ``k`` products of two such tensors is exact in ``acc_bits`` bits."""
    pair = ELEMENT_PAIRS[tensor_format.element.name, tensor_format.element.name]
    if tensor_format.scale in (Scale.NONE, Scale.E4M3):
        limit = exact_elements(pair, tensor_format.scale, acc_bits)
        if not limit:
            return "never: one product fills the accumulator"
        return f"always up to k = {limit:,}" if limit >= k else f"only up to k = {limit:,}"
    try:
        spread = headroom(pair, tensor_format.scale, tensor_format.block, -(-k // tensor_format.block), acc_bits)
    except ValueError:
        bits = block_magnitude_bits(pair, tensor_format.block)
        return f"never: one block needs {bits} bits and a sign"
    if tensor_format.scale == Scale.FP32:
        return f"to 2^-{spread} of the largest term's unit"
    return f"for scales within {spread} binary orders of their anchors"


def read_tensor(path: Path, name: str | None) -> np.ndarray:
    """(rows, k) float32 from a .npy or safetensors file; ``name`` chooses a tensor of the latter."""
    if not path.is_file():
        raise WorkloadError(f"tensor file {path}: no such file")
    if path.suffix == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise WorkloadError(f"tensor file {path}: cannot be read: {error}") from None
    else:
        held = SafetensorsFile(path)
        names = sorted(held.names)
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            problem = f"no tensor {name!r}" if name is not None else f"holds {len(names)} tensors, name one of them"
            raise WorkloadError(f"tensor file {path}: {problem}; allowed: {', '.join(names)[:200]}")
        values = held.read(name, held.entries[name].shape)
    if not np.issubdtype(values.dtype, np.floating) or values.ndim < 1 or not values.size:
        raise WorkloadError(f"tensor file {path}: expected a non-empty tensor of floats, got {values.dtype} "
                            f"{values.shape}")
    values = values.astype(np.float32).reshape(-1, values.shape[-1])
    if not np.isfinite(values).all():
        raise WorkloadError(f"tensor file {path}: expected finite numbers, found NaN or infinity")
    return values


def tensor_errors(values: np.ndarray, rule: ScaleRule = ScaleRule.FLOOR) -> list[dict]:
    """Relative RMS and largest error of each format on (rows, k) float32, blocks along k; rule: of power-of-two
    scales."""
    exact = values.astype(np.float64)
    rms = float(np.sqrt(np.mean(np.square(exact)))) or 1.0
    rows = []
    for tensor_format in TENSOR_FORMATS.values():
        factor = tensor_factor(tensor_format, float(np.abs(values).max()), rule)
        difference = stored_values(values, tensor_format, factor, rule) - exact
        error = float(np.sqrt(np.mean(np.square(difference)))) / rms
        rows.append({"format": tensor_format.name, "rel_rms_error": error,
                     "largest_error": float(np.abs(difference).max()),
                     "bytes": round(values.size * tensor_format.bytes_per_element)})
    return rows


def layer_costs(workload: Workload, config: TileConfig, table: EnergyTable, routing: str | None,
                softmax_block: int = SOFTMAX_BLOCK) -> list[dict]:
    """Cycles, DRAM bytes and energy of the layer in each preset that the tile builds; others say why not."""
    rows: list[dict] = []
    for name, formats in PRESETS.items():
        try:
            compiled = compile_layer(workload, config, routing=routing, data=False,
                                     numerics=Numerics(formats=formats, softmax_block=softmax_block))
        except CompileError as error:
            rows.append({"format": name, "not_built": str(error)})
            continue
        compiled.program.meta["useful_macs"] = useful_macs(workload, compiled.routing)
        result = simulate(compiled.program, ("timing",), energy_table=table)
        bus = config.bus_bytes
        rows.append({"format": name, "cycles": result.cycles, "read_bytes": result.dram_bytes["read"],
                     "scale_bytes": result.events["scale_beats"] * bus, "energy_pj": result.energy.total_pj})
    return rows


NUMBERS = {"format": "format", "element_bits": "bits", "max": "max", "smallest": "smallest", "block": "block",
           "bytes_per_element": "bytes", "exact": "exact"}
MEANINGS = {"format": "format", "meaning": "meaning", "scale_rule": "scales"}


def described_text(rows: list[dict]) -> str:
    """Rows of `describe_formats` as two tables: numbers, meanings."""
    tables = [[{short: row[key] for key, short in columns.items()} for row in rows] for columns in (NUMBERS, MEANINGS)]
    return "\n\n".join(text_table(table) for table in tables)


def text_table(rows: list[dict]) -> str:
    """Rows with equal keys as plain text of at most `TEXT_WIDTH` columns; the last column is wrapped to fit."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[_cell(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    left = sum(width + 2 for width in widths[:-1])
    lines = []
    for row in cells:
        start = "".join(cell.ljust(width + 2) for cell, width in zip(row, widths[:-1], strict=False))
        for part in textwrap.wrap(row[-1], max(20, TEXT_WIDTH - left), break_long_words=False) or [""]:
            lines.append((start + part).rstrip())
            start = " " * left
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
