"""benchmarks/gates.md from the figures of `run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilescore.benchmarks.gates.parts import PARTS
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.events import EVENT_NAMES, PAIR_EVENTS, TERM_EVENTS
from tilescore.rtl.spec.isa import Pair, Scale
from tilescore.sim.energy import energy_of, load_table
from tilescore.sim.names import TABLES


def page(figures: dict) -> str:
    return "\n".join([*_head(figures), *_sizes(figures), *_energies(figures), *_elements(figures), *_tables(figures),
                      *_published(), ""])


def _head(figures: dict) -> Iterator[str]:
    wires = ", ".join(f"{wire:g}" for wire in figures["wires_ff"])
    yield from (
        "# Parts of the tile in standard cells", "",
        "Made by `python benchmarks/gates/run.py LIBERTY ... --write`. The libraries are not part of this project; the "
        "command takes any Liberty file.", "",
        "| library | corner | V | °C | FO4, ps |", "|---|---|---|---|---|")
    for library in figures["libraries"]:
        yield (f"| {library['name']} | {library['corner']} | {library['voltage']:g} | {library['temperature']:g} | "
               f"{library['fo4_ps']:.0f} |")
    yield from (
        "",
        f"* Mapped by Yosys and ABC for a period of {figures['period_fo4']} FO4, registers to one plain flip-flop. "
        "No layout, no clock tree, no clock gating, no scan.",
        f"* Wires are an assumption: {wires} fF to each sink. Longest path: clock to output, gates, setup, with the "
        "wires' capacitance and no resistance.",
        "* Energy is that of switched loads, of internal power tables and of leakage over one longest path. *zero* "
        "delay: a net moves at most once per cycle. *unit* delay: every cell takes equally long, and nets glitch; "
        "neither is the truth.",
        "* Stimuli are recorded from the tile while it runs compiled programs. *gaussian*: a product of normal "
        "operands, quantized as the compiler does. *layer*: input with outlier channels and weights of a synthetic "
        "layer; for parts that do not multiply, a whole small attention layer, in its busiest window. *zeros*: the "
        "steps of *gaussian* on zeros. *idle*: clocked, inputs held.",
        "* *clock*: clock pins, their wires and what flip-flops draw at the edges. *combinational*: gates, and the "
        "nets that they or ports drive. *flip-flops*: their data inputs and outputs.", "")


def _sizes(figures: dict) -> Iterator[str]:
    yield from ("## Size and longest path", "", "| library | part | area, µm² | gates | flip-flops | "
                + " | ".join(f"path at {wire:g} fF, ps" for wire in figures["wires_ff"]) + " | in FO4 |",
                "|---|---|---|---|---|" + "---|" * (len(figures["wires_ff"]) + 1))
    for library, part in _parts(figures):
        paths = list(part["path_ps"].values())
        yield (f"| {library['name']} | {part['label']} | {part['area']:,.0f} | {part['gates']:,} | "
               f"{part['flip_flops']:,} | " + " | ".join(f"{path:,.0f}" for path in paths)
               + f" | {paths[0] / library['fo4_ps']:.0f} |")
    yield ""


def _energies(figures: dict) -> Iterator[str]:
    for title, multiplies in (("Energy of a processing element", True), ("Energy of other parts", False)):
        rows = [(library, part, stimulus) for library, part in _parts(figures) for stimulus in part["stimuli"]
                if any(s["macs_per_event"] for s in part["stimuli"]) == multiplies]
        if not rows:
            continue
        middle = str(figures["wires_ff"][len(figures["wires_ff"]) // 2])
        yield from (f"## {title}", "",
                    f"fJ per cycle in which the stimulus is at work, shares at {middle} fF"
                    + (", and per multiply-accumulate." if multiplies else "; *busy*: events per cycle."), "",
                    "| library | part | stimulus | delay | busy | "
                    + " | ".join(f"{wire:g} fF" for wire in figures["wires_ff"])
                    + " | clock | combinational | flip-flops | leakage |"
                    + (f" fJ/MAC at {middle} fF |" if multiplies else f" fJ/event at {middle} fF |"),
                    "|---|---|---|---|---|" + "---|" * (len(figures["wires_ff"]) + 5))
        for library, part, stimulus in rows:
            energy = stimulus["fj_per_cycle"]
            shares = [energy[middle][name] / energy[middle]["total"]
                      for name in ("clock", "combinational", "flip_flops", "leakage")]
            each = per_event(stimulus, middle)
            if each is not None and multiplies:
                each /= stimulus["macs_per_event"]
            yield (f"| {library['name']} | {part['label']} | {stimulus['name']} | {stimulus['delay']} | "
                   f"{stimulus['events'] / stimulus['cycles']:.2f} | "
                   + " | ".join(f"{e['total']:,.0f}" for e in energy.values()) + " | "
                   + " | ".join(f"{share:.1%}" for share in shares)
                   + f" | {'' if each is None else f'{each:,.0f}'} |")
        yield ""


def per_event(stimulus: dict, wire: str) -> float | None:
    """fJ, all cycles divided among the events; None if there were none."""
    if not stimulus["events"]:
        return None
    return stimulus["fj_per_cycle"][wire]["total"] * stimulus["cycles"] / stimulus["events"]


def _elements(figures: dict) -> Iterator[str]:
    """What idling costs, and glitches."""
    middle = str(figures["wires_ff"][len(figures["wires_ff"]) // 2])
    yield from ("## Idle cycles, zeros and glitches of a processing element", "",
                f"Relative to *gaussian* with zero delay, at {middle} fF.", "",
                "| library | part | format | idle | zeros | layer | gaussian, unit delay |",
                "|---|---|---|---|---|---|---|")
    for library, part in _parts(figures):
        found = {(s["name"], s["delay"]): s["fj_per_cycle"][middle]["total"] for s in part["stimuli"]}
        for tensor_format in dict.fromkeys(name.split()[0] for name, _ in found if name.endswith(" gaussian")):
            base = found[f"{tensor_format} gaussian", "zero"]
            others = [found[f"{tensor_format} {name}", delay] / base for name, delay in (
                ("idle", "zero"), ("zeros", "zero"), ("layer", "zero"), ("gaussian", "unit"))]
            yield (f"| {library['name']} | {part['label']} | {tensor_format} | "
                   + " | ".join(f"{x:.2f}" for x in others) + " |")
    yield ""


def _tables(figures: dict) -> Iterator[str]:
    yield from (
        "## Beside the energy tables", "",
        "The same event by the constants of `--energy` (docs/energy.md): a k step of one PE with its registers and the "
        "accumulation, without drain and leakage. Gates: *gaussian*, zero and unit delay, smallest and largest wire, "
        "without leakage; ratio: gates over the table's value, at the library's voltage. A ratio means something only "
        "where library and table are of one node: `7nm` beside ASAP7.", "",
        "| library | part | pair | gates, fJ/MAC | " + " | ".join(
            f"{name}, fJ/MAC (range) | ratio" for name in TABLES) + " |",
        "|---|---|---|---|" + "---|---|" * len(TABLES))
    low_wire, high_wire = (str(figures["wires_ff"][i]) for i in (0, -1))
    for library in figures["libraries"]:
        for name, part in library["parts"].items():
            for pair in dict.fromkeys(s["pair"] for s in part["stimuli"] if s["name"].endswith("gaussian")):
                found = {s["delay"]: s for s in part["stimuli"] if s["pair"] == pair and s["name"].endswith("gaussian")}
                macs = found["zero"]["macs_per_event"]
                low, high = (_dynamic(found[delay], wire) / macs
                             for delay, wire in (("zero", low_wire), ("unit", high_wire)))
                cells = []
                for table in TABLES:
                    value, least, most = (
                        step_fj(PARTS[name].config, Pair[pair], table, end) / macs for end in ("value", "low", "high"))
                    cells.append(f"{value:,.0f} ({least:,.0f} to {most:,.0f}) | "
                                 f"{low / value:.2f} to {high / value:.2f}")
                yield (f"| {library['name']} | {part['label']} | {pair} | {low:,.0f} to {high:,.0f} | "
                       + " | ".join(cells) + " |")
    yield ""


def _dynamic(stimulus: dict, wire: str) -> float:
    """fJ per event without leakage."""
    energy = stimulus["fj_per_cycle"][wire]
    return (energy["total"] - energy["leakage"]) * stimulus["cycles"] / stimulus["events"]


def step_fj(config: TileConfig, pair: Pair, table: str, end: str) -> float:
    """fJ of one k step in one PE by an energy table with its constants at ``end``: "value", "low" or "high".

    From the counts of one step of the whole array, divided among its PEs. E2M1 steps end a scaled block each.
    """
    given = load_table(table)
    constants = replace(given, constants={
        name: replace(given.constants[name], value=value) for name, value in given.at(end).items()})
    scale = Scale.E4M3 if pair == Pair.E2M1 else Scale.NONE
    counts = dict.fromkeys(EVENT_NAMES, 0) | {
        PAIR_EVENTS[pair]: config.rows, TERM_EVENTS[scale]: config.rows, "a_group_reads": config.rows,
        "b_group_reads": config.cols}
    components = energy_of(counts, 0, config, constants).components
    return 1000 * sum(components[name] for name in ("multipliers", "accumulators", "operand_registers")) / (
        config.rows * config.cols)


def _published() -> Iterator[str]:
    yield from (
        "## Published figures", "",
        "Energy per multiply-accumulate, of whole cores or chips where nothing else is said, converted from operations "
        "per second and watt at two operations each. Nodes, voltages, memories and rounding differ.", "",
        "| what | node | fJ/MAC | source |", "|---|---|---|---|",
        "| INT8 multiply-accumulate of a TPUv4i model | 7 nm | 84 | AccelForge's example of that chip |",
        "| hybrid FP8, whole chip | 7 nm | 560 | IBM 4-core AI chip, JSSC 2022 |",
        "| INT4, whole chip | 7 nm | 118 | the same |",
        "| INT4 dot product, whole core, 0.46 to 0.67 V | 5 nm | 21 to 52 | Keller et al., JSSC 2023 |",
        "| MXFP8, MXFP4, cluster | 12 nm | 2,400, 1,200 | VMXDOTP |",
        "| MXFP8, cluster, 0.8 V | 12 nm | 5,600 | MXDOTP, arXiv 2505.13159 |",
        "| MXINT8, FP8 and FP6, FP4, array | not given | 3,000, 1,200 to 1,400, 490 | SNAX MX, arXiv 2511.06313 |",
        "| FP8, FP4, one PE | 28 nm | 1,100, 550 | DHFP-PE, arXiv 2604.04507 |",
        "| tensor core | 7 nm | 720 | Ten-Four, arXiv 2512.00053 |",
        "| 8-bit multiply and 32-bit add | 45 nm, 0.9 V | 300 | Horowitz, ISSCC 2014 |")


def _parts(figures: dict) -> Iterator[tuple[dict, dict]]:
    for library in figures["libraries"]:
        for part in library["parts"].values():
            yield library, part
