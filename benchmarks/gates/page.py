"""benchmarks/gates.md and the energy tables from the figures of `run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tilescore.benchmarks.gates import tables
from tilescore.benchmarks.gates.fit import above_idle, clocked_of, idle_energy, pe_features, run_energy
from tilescore.benchmarks.gates.parts import NANO, PARTS, is_judge
from tilescore.benchmarks.gates.stale import UNGATED
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.sim.area import area_of
from tilescore.sim.energy import EnergyTable, load_table
from tilescore.sim.structure import tile_sizes

PAGE = Path(__file__).resolve().parent.parent / "gates.md"

MIDDLE = 1
"""Place of the middle wire in lists by wire."""

PUBLISHED = (
    ("INT8 multiply-accumulate of a TPUv4i model", "7 nm", 84, "AccelForge's example of that chip; the table before "
     "this one was scaled from it, so it is no independent check"),
    ("hybrid FP8, whole chip", "7 nm", 560, "IBM 4-core AI chip, JSSC 2022"),
    ("tensor core", "7 nm", 720, "Ten-Four, arXiv 2512.00053"),
    ("FP8, one PE", "28 nm", 1100, "DHFP-PE, arXiv 2604.04507"),
    ("FP4, one PE", "28 nm", 550, "the same"),
    ("MXFP8 and FP6, array", "not given", 1190, "SNAX MX, arXiv 2511.06313: 1,190 to 1,390"),
    ("MXFP4, array", "not given", 490, "the same"),
    ("MXFP8, cluster", "12 nm", 2400, "VMXDOTP"),
    ("MXFP4, cluster", "12 nm", 1200, "the same"),
)
"""What, node, fJ per multiply-accumulate, source; converted from operations per second and watt at two each."""


CLOCKS = {"nano": ("pe", "sky130_fd_sc_hd__tt_025C_1v80"), "edge": ("pe-presets", "asap7"),
          "server": ("pe-presets", "asap7")}
"""By preset: its PE among the parts, and the library in which its clock is meant."""

MARGIN = 1.4
"""Period over path that a preset's clock leaves, for slow corners, wires' resistance, jitter and skew: assumed."""


def write(figures: Mapping) -> None:
    """The tables first, as the page compares with them."""
    tables.write(figures)
    PAGE.write_text(page(figures), encoding="utf-8")


def page(figures: Mapping) -> str:
    found = {technology.library: load_table(technology.table) for technology in tables.TECHNOLOGIES}
    return "\n".join([*_head(figures), *_sizes(figures, found), *_clocks(figures), *_energies(figures),
                      *_gating(figures), *_judged(figures, found), *_published(found), *_areas(figures, found), ""])


def _head(figures: Mapping) -> Iterator[str]:
    yield from (
        "# Units of the tile in standard cells", "",
        "Made by `python benchmarks/gates/run.py LIBERTY ... --write`. The libraries are not part of this project; the "
        "command takes any Liberty file.", "",
        "| library | corner | V | °C | FO4, ps | wires, fF to each sink |", "|---|---|---|---|---|---|")
    for library in figures["libraries"]:
        yield (f"| {library['name']} | {library['corner']} | {library['voltage']:g} | {library['temperature']:g} | "
               f"{library['fo4_ps']:.0f} | {', '.join(f'{wire:.2f}' for wire in library['wires_ff'])} |")
    yield from (
        "",
        "* Mapped by Yosys and ABC, registers to one plain flip-flop, registers that share an enable behind a clock "
        "gate of "
        "the library. No layout, no clock tree, no scan.",
        "* Wires are an assumption: none, 7 and 14 times the side of the smallest inverter to each sink, at 0.2 fF/um. "
        "Longest path: clock to output, gates, setup, with the wires' capacitance and no resistance.",
        "* Energy is that of switched loads and of internal power tables. *zero* delay: a net moves at most once per "
        "cycle. "
        "*unit* delay: every cell takes equally long, and nets glitch; neither is the truth, tables take their mean.",
        "* Stimuli are recorded from whole runs of compiled programs on the whole tile. *gaussian*, *short*: products "
        "of "
        "normal operands, quantized as the compiler does, with long and short sums. *layer*: input with outlier "
        "channels "
        "and weights of a synthetic layer; *real*: those of the first layer of SmolLM2-135M; *program*: such products "
        "of sizes seeded by the fitted tables. *vector*: VECTORs of one kind. "
        "*idle*: clocked, "
        "inputs held.",
        "* *clock*: clock pins, their wires, what flip-flops draw at the edges, clock gates. *combinational*: gates, "
        "and the "
        "nets that they or ports drive. *flip-flops*: their data inputs and outputs.", "")


def _sizes(figures: Mapping, found: Mapping[str, EnergyTable]) -> Iterator[str]:
    yield from ("## Size and longest path", "",
                "*model*: `area_of`'s share, and its error.", "",
                "| library | part | area, um2 | model | gates | flip-flops | gated | longest path, ps | in FO4 | "
                "leakage, nW |",
                "|---|---|---|---|---|---|---|---|---|---|")
    for library, name, part in _parts(figures):
        modelled = ""
        if library["name"] in found and name in PARTS:
            area = modelled_area(name, found[library["name"]])
            modelled = f"{area:,.0f} ({area / part['area'] - 1:+.0%})"
        path = part["path_ps"][MIDDLE]
        yield (f"| {library['name']} | {_label(name, part)} | {part['area']:,.0f} | {modelled} | {part['gates']:,} | "
               f"{part['flip_flops']:,} | {part['gated_flip_flops']:,} by {part['clock_gates']} | {path:,.0f} | "
               f"{path / library['fo4_ps']:.0f} | {part['leakage_nw']:,.0f} |")
    yield ""


def modelled_area(name: str, table: EnergyTable) -> float:
    """um2 of a part by the area model."""
    unit = "pe" if PARTS[name].label.startswith("PE,") else name.replace("-", "_")
    size, c = tile_sizes(PARTS[name].config)[unit], table.at("value")
    return size.registers * c["register_area"] + size.transistors * c["transistor_area"]


def period_and_path(figures: Mapping, preset: str) -> tuple[float, float]:
    """ps: the period of a preset's clock, and the path of its PE with the middle wire. Raises `ConfigError` if the
    figures lack the PE."""
    name, wanted = CLOCKS[preset]
    part = next((library["parts"].get(name) for library in figures["libraries"] if library["name"] == wanted), None)
    if part is None:
        raise ConfigError(f"the clock of {preset}: the figures have no part {name} in {wanted}")
    return 1e6 / load_tile(preset).clock_mhz, part["path_ps"][MIDDLE]


def _clocks(figures: Mapping) -> Iterator[str]:
    yield from ("## Clock rates of the presets", "",
                f"The path of the preset's PE with the middle wire, and the margin that the clock leaves, at least "
                f"{MARGIN:g}: for slow corners, wires' resistance, jitter and skew, which are not in the path.", "",
                "| preset | clock, MHz | library | part | path, ps | period over path |", "|---|---|---|---|---|---|")
    for preset, (name, library) in CLOCKS.items():
        period, path = period_and_path(figures, preset)
        yield (f"| {preset} | {1e6 / period:g} | {library} | {PARTS[name].label} | {path:,.0f} | {period / path:.2f} |")
    yield ""


def _energies(figures: Mapping) -> Iterator[str]:
    yield from ("## Energy", "", "fJ per cycle of one instance, at the middle wire; the ends are no wires and zero "
                                 "delay, "
                "and the longest with unit delay.", "",
                "| library | part | run | cycles | fJ per cycle | ends | clock | combinational | flip-flops | idle |",
                "|---|---|---|---|---|---|---|---|---|---|")
    for library, name, part in _parts(figures):
        for run in part["runs"]:
            value, low, high = (run_energy(run, end) for end in ("value", "low", "high"))
            shares = [sum(run[delay][kind][MIDDLE] for delay in ("zero", "unit")) / 2 / value
                      for kind in ("clock", "combinational", "flip_flops")]
            yield (f"| {library['name']} | {_label(name, part)} | {run['name']} | {run['cycles']:,} | {value:,.0f} | "
                   f"{low:,.0f} to {high:,.0f} | " + " | ".join(f"{share:.0%}" for share in shares)
                   + f" | {idle_energy(part, 'value') / value:.0%} |")
    yield ""


def step_energy(name: str, part: Mapping, run: Mapping, end: str = "value") -> float:
    """fJ of one k step of a PE in a run, its clock included, whatever else the run did counted with it."""
    steps = sum(run["events"].get(event, 0) for event in EVENT_NAMES if event.endswith("_row_steps"))
    return 1000 * above_idle(part, run, end) / (steps / PARTS[name].config.rows) + idle_energy(part, end)


def _gating(figures: Mapping) -> Iterator[str]:
    yield from ("## Idle processing elements", "",
                "fJ per cycle: at rest, and in a k step with its share of what else the run did.", "",
                "| library | part | run | step | idle | idle over step |", "|---|---|---|---|---|---|")
    for library, name, part in _parts(figures):
        base = name.removesuffix(UNGATED)
        if PARTS[base].label.startswith("PE,"):
            for run in part["runs"]:
                step, idle = step_energy(base, part, run), idle_energy(part, "value")
                yield (f"| {library['name']} | {_label(name, part)} | {run['name']} | {step:,.0f} | {idle:,.0f} | "
                       f"{idle / step:.0%} |")
    yield ""


def judged(figures: Mapping, library_name: str, table: EnergyTable) -> Iterator[tuple[str, str, float, float]]:
    """(part, what, gates, table) in fJ of what no table was fitted to: idle and k step of PEs that were not fitted, and
    on the operands of layers.
    """
    library = next(entry for entry in figures["libraries"] if entry["name"] == library_name)
    for name, part in library["parts"].items():
        if name not in PARTS or not PARTS[name].label.startswith("PE,"):
            continue
        idle = 1000 * table.at("value")["pe_idle"] * clocked_of("pe", name)
        if not PARTS[name].fitted:
            yield name, "idle", idle_energy(part, "value"), idle
        for run in part["runs"]:
            if is_judge(run["name"]) or not PARTS[name].fitted:
                yield name, run["name"], step_energy(name, part, run), idle + model_step(PARTS[name].config, run, table)


def model_step(config: TileConfig, run: Mapping, table: EnergyTable) -> float:
    """fJ above idle of one k step of a PE by a table, as `step_energy`."""
    events = dict.fromkeys(EVENT_NAMES, 0) | run["events"]
    constants = table.at("value")
    steps = sum(events[event] for event in EVENT_NAMES if event.endswith("_row_steps")) / config.rows
    return 1000 * sum(constants[name] * count for name, count in pe_features(config, events).items()) / steps


def _judged(figures: Mapping, found: Mapping[str, EnergyTable]) -> Iterator[str]:
    yield from ("## What the tables say of runs that they were not fitted to", "",
                "One PE on the operands of layers, and at rest; parts marked * were not used in the fit at all, and "
                "*real* and *program* runs came after it.", "",
                "| table | part | what | gates, fJ | table, fJ | error |", "|---|---|---|---|---|---|")
    for library, table in found.items():
        if any(entry["name"] == library for entry in figures["libraries"]):
            for name, what, gates, modelled in judged(figures, library, table):
                yield (f"| {table.name} | {PARTS[name].label}{'' if PARTS[name].fitted else ' *'} | {what} | "
                       f"{gates:,.0f} | "
                       f"{modelled:,.0f} | {modelled / gates - 1:+.0%} |")
    yield ""


def mac_energy(table: EnergyTable, end: str = "value") -> float:
    """fJ of an E4M3 multiply-accumulate in a PE of `nano`, its clock included, in a step without an end of its sum."""
    events = dict.fromkeys(EVENT_NAMES, 0) | {"e4m3_row_steps": NANO.rows, "unscaled_terms": NANO.rows}
    constants = table.at(end)
    step = sum(constants[name] * count for name, count in pe_features(NANO, events).items())
    idle = constants["pe_idle"] * tile_sizes(NANO)["pe"].clocked
    return 1000 * (step + idle) / NANO.lanes


def _published(found: Mapping[str, EnergyTable]) -> Iterator[str]:
    own = {table.name: [mac_energy(table, end) for end in ("value", "low", "high")] for table in found.values()}
    yield from (
        "## Published figures", "",
        "fJ per multiply-accumulate, of whole cores or chips where nothing else is said, beside an E4M3 one in a PE "
        "by the "
        "tables: " + "; ".join(f"`{name}` {value:,.0f} ({low:,.0f} to {high:,.0f})"
                               for name, (value, low, high) in own.items())
        + ". Nodes, voltages, memories and rounding differ.", "",
        "| what | node | fJ/MAC | " + " | ".join(f"ratio to `{name}`" for name in own) + " | source |",
        "|---|---|---|" + "---|" * len(own) + "---|")
    for what, node, energy, source in PUBLISHED:
        ratios = " | ".join(f"{energy / value:.2f}" for value, _, _ in own.values())
        yield f"| {what} | {node} | {energy:,} | {ratios} | {source} |"


def _areas(figures: Mapping, found: Mapping[str, EnergyTable]) -> Iterator[str]:
    """mm2 per 10**12 FP8 operations a second: PEs as mapped and presets by `area_of`, at the presets' clocks."""
    yield from ("", "## Area per throughput", "",
                "mm2 per 10^12 FP8 operations a second, two per multiply-accumulate, of mapped cells without the room "
                "between them; presets with their memories, by `area_of`.", "",
                "| what | node | clock, MHz | mm2 per TOPS | source |", "|---|---|---|---|---|")
    for preset, (name, library) in CLOCKS.items():
        table, tile = found[library], load_tile(preset)
        part = next(entry["parts"][name] for entry in figures["libraries"] if entry["name"] == library)
        tops = 2e-6 * tile.lanes * tile.clock_mhz
        yield (f"| PE of `{preset}` | `{table.name}` | {tile.clock_mhz:g} | {part['area'] * 1e-6 / tops:.3g} | "
               f"{part['label']}, as mapped |")
        yield (f"| `{preset}` | `{table.name}` | {tile.clock_mhz:g} | {area_of(tile, table).mm2_per_tops:.3g} | "
               f"`area_of` |")
    yield f"| FP8, one PE | 28 nm | 1,940 | {0.00396 / (2e-6 * 1940):.3g} | DHFP-PE: 0.00396 mm2, one per cycle |"


def _label(name: str, part: Mapping) -> str:
    return part["label"] + (", no clock gates" if name.endswith(UNGATED) else "")


def _parts(figures: Mapping) -> Iterator[tuple[Mapping, str, Mapping]]:
    for library in figures["libraries"]:
        for name, part in library["parts"].items():
            yield library, name, part


