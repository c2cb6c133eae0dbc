"""Random programs that are legal, and as mixed as the instruction set allows.

They exist to find disagreements between the simulation levels: every opcode, memory, field and token channel turns up,
in sizes around the edges (one row, one more than a panel, rows across panels and banks, single bytes). A program writes
all memories first, because nothing may be read that it has not written. It favours a few *hot* banks, so that
dependencies are dense; its mix of instructions is drawn per program, so that some queues run full and others starve.
At the end all of A and ACC is stored, so whatever was computed is in an output.

Instructions are drawn at random and those that break a rule of `sim.legality.accesses` are thrown away. Constructing
only legal ones was rejected: it never reaches the corners of the rules that nobody thought of.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..compiler.builder import ProgramBuilder
from ..rtl.spec.config import TileConfig
from ..rtl.spec.encoding import fp32_bits
from ..rtl.spec.errors import ProgramError
from ..rtl.spec.isa import (
    Combine,
    Dest,
    Func,
    Gather,
    Instruction,
    Load,
    Matmul,
    Reduce,
    Scatter,
    Source,
    Space,
    Store,
    Unit,
    Vector,
)
from ..rtl.spec.scale_layout import SCALE_BLOCKS, built_layouts
from ..sim.legality.accesses import AccessTable
from ..sim.legality.dram_streams import dram_streams
from ..sim.legality.initialized import Initialized
from ..sim.legality.verifier import verify
from ..sim.program import Program, Segment
from .random_formats import FormatDrawer

INDEX_LIMIT = 6
"""Values in the index memory are below this, so that gathers and scatters stay in their segment."""

_NAMES = ("LOAD", "GATHER", "STORE", "SCATTER", "MATMUL", "VECTOR")
_ATTEMPTS = 400
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 448.0, 2.0**-9, 3.4e38, 1e-45, 1.2e-38, float("inf"), float("-inf"),
            float("nan"))


def random_program(config: TileConfig, rng: np.random.Generator, size: int) -> Program:
    """A verified program of ``size`` random instructions and the stores of all of A and ACC.

    The same ``rng`` state gives the same program.
    """
    drawer = _Drawer(config, rng)
    drawer.fill()
    for _ in range(size):
        drawer.emit()
    drawer.dump()
    program = drawer.builder.finish()
    program = replace(program, instructions=list(program.instructions))  # for `add_tokens` and other changes
    verify(program)
    return program


def add_tokens(program: Program, rng: np.random.Generator, count: int) -> int:
    """Give ``program`` up to ``count`` more tokens that order more than is needed, any channel; in place.

    Tokens that the verifier does not accept (they would meet another one of their channel) are taken back.
    Returns the number of tokens added. The result is the same, the cycles differ.
    """
    added = 0
    units = [i.spec.unit for i in program.instructions]
    consumers = [n for n, i in enumerate(program.instructions) if i.spec.name != "HALT"]
    for _ in range(count):
        target = _of_any_unit(rng, consumers, units)
        if target == 0:
            continue
        source = _of_any_unit(rng, range(target), units)
        producer, consumer = program.instructions[source], program.instructions[target]
        kind = "rd" if rng.random() < 0.5 else "wr"
        give, take = 1 << consumer.spec.unit, 1 << producer.spec.unit
        signal, wait = getattr(producer, f"signal_{kind}"), getattr(consumer, f"wait_{kind}")
        if producer.spec.unit == Unit.DISPATCH or signal & give or wait & take:
            continue
        setattr(producer, f"signal_{kind}", signal | give)
        setattr(consumer, f"wait_{kind}", wait | take)
        try:
            verify(program)
            added += 1
        except ProgramError:
            setattr(producer, f"signal_{kind}", signal)
            setattr(consumer, f"wait_{kind}", wait)
    return added


def _of_any_unit(rng: np.random.Generator, among: Sequence[int], units: Sequence[Unit]) -> int:
    """A random instruction: first the unit, each as likely, then one of its instructions."""
    unit = rng.choice(sorted({units[n] for n in among}))
    return int(rng.choice([n for n in among if units[n] == unit]))


class _Drawer:
    """One program in the making."""

    def __init__(self, config: TileConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.builder = ProgramBuilder(config)
        self.table, self.initialized = AccessTable(config), Initialized(config)
        self.weights = rng.dirichlet(np.full(len(_NAMES), 0.8)) * 0.8 + 0.2 / len(_NAMES)
        self.acc_hot = rng.choice(config.acc_banks + config.stat_banks, size=7)
        self.long = rng.random() < 0.3
        self.partial: Instruction | None = None
        self.written: Instruction | None = None
        bus, row = config.bus_bytes, 4 * config.cols
        size = 64 * max(bus, row)
        self.formats = FormatDrawer(config, rng)
        codes = self.formats.codes(size, nan=float(rng.choice([0.0, 0.0, 0.003, 0.03])))
        self.codes = self.builder.dram("codes", data=codes)
        self.values = self.builder.dram("values", data=self._values(size // 4))
        self.indices = self.builder.dram("indices", data=rng.integers(0, INDEX_LIMIT, 16 * bus).astype(np.uint32))
        self.scratch = [self.builder.dram("scratch codes", data=self.formats.codes(size, nan=0.0)),
                        self.builder.dram("scratch values", data=self._values(size // 4))]
        if config.scales:
            self.scales = self.builder.dram("scales", data=self.formats.scale_bytes(size))
            self.scratch.append(self.builder.dram("scratch scales", data=self.formats.scale_bytes(size)))
        for segment in self.scratch:
            self.builder.output(segment.name, segment.addr, (segment.size,), "uint8")

    # Data ------------------------------------------------------------------------------------------

    def _values(self, count: int) -> np.ndarray:
        values = (self.rng.standard_normal(count) * 2.0 ** self.rng.integers(-12, 12, count)).astype(np.float32)
        special = self.rng.random(count) < 0.02
        values[special] = self.rng.choice(np.array(_SPECIAL, np.float32), int(special.sum()))
        return values

    def _immediate(self) -> int:
        if self.rng.random() < 0.5:
            return fp32_bits(self.rng.standard_normal() * 2.0 ** self.rng.integers(-8, 8))
        return fp32_bits(self.rng.choice(_SPECIAL[:8]))

    def _up_to(self, limit: int) -> int:
        """1..limit, small values and the limit itself more often."""
        choice = self.rng.random()
        if choice < 0.2:
            return limit
        return int(self.rng.integers(1, limit + 1)) if choice < 0.6 else int(self.rng.integers(1, min(limit, 3) + 1))

    def _bit(self, probability: float = 0.5) -> int:
        return int(self.rng.random() < probability)

    def _acc(self) -> int:
        """An ACC row, in a hot bank as a rule."""
        c = self.config
        banks = c.acc_banks + c.stat_banks
        bank = int(self.rng.choice(self.acc_hot) if self._bit(0.8) else self.rng.integers(banks))
        return c.acc_addr(bank, int(self.rng.integers(c.acc_bank_depth(bank))) if self._bit() else 0)

    def _group(self, space: Space, align: int) -> int:
        """A group address in A or B at a multiple of ``align`` groups; bank 0 or 1 as a rule."""
        c = self.config
        banks, depth, bits = ((c.a_banks, c.a_bank_groups, c.a_offset_bits) if space == Space.A
                              else (c.b_banks, c.b_bank_groups, c.b_offset_bits))
        bank = int(self.rng.integers(min(banks, 2) if self._bit(0.7) else banks))
        offset = int(self.rng.integers(depth)) if self._bit() else 0
        return (bank << bits) | offset // align * align

    # Instructions ----------------------------------------------------------------------------------

    def fill(self) -> None:
        """Write every memory: codes and scale bytes to A and B, values to ACC, row numbers to the index memory."""
        c, bus = self.config, self.config.bus_bytes
        for space, slices, banks, groups, bits in ((Space.A, c.rows, c.a_banks, c.a_bank_groups, c.a_offset_bits),
                                                   (Space.B, c.cols, c.b_banks, c.b_bank_groups, c.b_offset_bits)):
            for bank in range(banks):
                self._fill_bank(space, slices, groups * c.lanes, bank << bits)
        row_bytes, most = 4 * c.cols, 32
        for bank in range(c.acc_banks + c.stat_banks):
            depth = c.acc_bank_depth(bank)
            for row in range(0, depth, most):
                source = self.values.addr + bus * int(self.rng.integers(16))
                self._put(Load(space=Space.ACC, dram_addr=source, row_stride=row_bytes, rows=min(most, depth - row),
                               row_bytes=row_bytes, addr=c.acc_addr(bank, row)), "fill")
        for low in range(0, 4 * c.index_entries, self.indices.size):
            size = min(self.indices.size, 4 * c.index_entries - low)
            self._put(Load(space=Space.INDEX, dram_addr=self.indices.addr, rows=1, row_bytes=size, addr=low // 4),
                      "fill")

    def _fill_bank(self, space: Space, slices: int, slice_bytes: int, addr: int) -> None:
        """Codes to all of a bank of A or B, then scale bytes to its whole blocks, with the codes again."""
        c, bus, beats = self.config, self.config.bus_bytes, 8
        most = self.codes.size - (slices + beats) * bus
        base: dict = {"space": space, "row_stride": bus, "rows": slices}
        for low in range(0, slice_bytes, most):
            source = self.codes.addr + bus * int(self.rng.integers(beats))
            self._put(Load(**base, dram_addr=source, row_bytes=min(most, slice_bytes - low),
                           addr=addr + low // c.lanes), "fill")
        if not c.scales:
            return
        layout = built_layouts(c)[0]
        block = SCALE_BLOCKS[layout]
        block_bytes = block.groups * c.lanes
        most = min(most // block_bytes, (self.scales.size // slices // bus - 1) * bus // block.size)
        blocks = slice_bytes // block_bytes
        for low in range(0, blocks, most):
            count = min(most, blocks - low)
            stride = -(-count * block.size // bus) * bus
            self._put(Load(**base, dram_addr=self.codes.addr, row_bytes=count * block_bytes,
                           addr=addr + low * block.groups, scale=layout, scale_addr=self.scales.addr,
                           scale_stride=stride), "fill")

    def _put(self, instruction: Instruction, label: str = "") -> None:
        """Emit a legal instruction that reads only what is written, or raise `ProgramError`."""
        self.initialized.add(instruction, self.table.of(instruction))
        self.builder.emit(instruction, label)

    def emit(self) -> None:
        """Draw until an instruction keeps all rules, and emit it."""
        name = _NAMES[int(self.rng.choice(len(_NAMES), p=self.weights))]
        draw = {"LOAD": self._load, "GATHER": self._gather, "STORE": self._store, "SCATTER": self._scatter,
                "MATMUL": self._matmul, "VECTOR": self._vector}[name]
        for _ in range(_ATTEMPTS):
            instruction = draw()
            try:
                self.table.of(instruction)
                if name not in ("MATMUL", "VECTOR") and not self._inside(instruction):
                    continue
                self._put(instruction)
            except ProgramError:
                continue
            else:
                if name == "MATMUL":
                    self.partial = instruction if instruction.raw else None
                elif name == "VECTOR":
                    self.written = instruction if instruction.dest == Dest.ACC else None
                return
        raise ProgramError(f"random program for tile {self.config.name}: no legal {name} in {_ATTEMPTS} attempts")

    def _inside(self, i: Instruction) -> bool:
        """Whether every row that can be chosen is inside its segment."""
        bus, indexed = self.config.bus_bytes, i.spec.name in ("GATHER", "SCATTER")
        if i.spec.name == "SCATTER" and i.row_stride < i.row_bytes:
            return False
        for stream in dram_streams(i, self.config):
            last = INDEX_LIMIT - 1 if indexed else stream.rows - 1
            end = stream.addr + last * stream.row_stride + -(-stream.row_bytes // bus) * bus
            if not any(s.addr <= stream.addr and end <= s.addr + s.size for s in self.builder.segments):
                return False
        return True

    def _chip_side(self, space: Space) -> dict:
        """rows, row_bytes, addr, row_offset and pitch."""
        c = self.config
        beat = c.bus_bytes // c.lanes
        if space in (Space.A, Space.B):
            slices = c.rows if space == Space.A else c.cols
            row_bytes = self._up_to(4 * c.bus_bytes) if self.long else self._up_to(c.bus_bytes + 1)
            return {"rows": self._up_to(2 * slices + 1), "row_bytes": row_bytes,
                    "addr": self._group(space, beat), "row_offset": self._bit(0.3) * int(self.rng.integers(slices)),
                    "pitch": beat * int(self.rng.integers(1, 6))}
        rows = self._up_to(min(c.acc_bank_rows, 8))
        pitch = rows if self._bit() else int(self.rng.choice([1 << c.acc_offset_bits, rows + 1]))
        return {"rows": rows, "row_bytes": 4 * self._up_to(2 * c.cols + 1 if self._bit(0.3) else c.cols),
                "addr": self._acc(), "pitch": pitch}

    def _dram_side(self, segment: Segment, row_bytes: int) -> dict:
        """dram_addr and row_stride, on beats."""
        bus = self.config.bus_bytes
        addr = segment.addr + int(self.rng.integers(segment.size // bus)) // int(self.rng.choice([1, 1, 8])) * bus
        stride = -(-row_bytes // bus) * bus
        return {"dram_addr": addr, "row_stride": stride + bus * int(self.rng.choice([0, 0, 1, 3]))}

    def _load_fields(self, name: str, spaces: tuple[Space, ...]) -> dict:
        c = self.config
        space = Space(int(self.rng.choice(spaces)))
        if space == Space.INDEX:
            beats = c.index_entries * 4 // c.bus_bytes
            fields = {"rows": 1, "row_bytes": 4 * self._up_to(min(c.index_entries, 16)),
                      "addr": c.bus_bytes // 4 * int(self.rng.integers(min(beats, 4)))}
            segment = self.indices
        else:
            fields = self._chip_side(space)
            sources = [self.values, self.scratch[1]] if space == Space.ACC else [self.codes, *self.scratch]
            segment = sources[int(self.rng.integers(len(sources)))]
        fields["space"] = space
        fields |= self._scale_side(fields, name)
        fields |= self._dram_side(segment, fields["row_bytes"])
        if self._bit(0.1):
            fields["row_stride"] = 0
        return fields

    def _scale_side(self, fields: dict, name: str) -> dict:
        """scale, scale_addr, scale_stride and the row_bytes that goes with them; {} for rows without scales."""
        bus, most = self.config.bus_bytes, 16 * self.config.bus_bytes if self.long else 4 * self.config.bus_bytes
        scales = self.formats.dma_scales(fields, name, most)
        if not scales:
            return {}
        stores = name in ("STORE", "SCATTER")
        segment = self.scratch[2] if stores or self._bit() else self.scales
        addr = segment.addr + int(self.rng.integers(segment.size // bus)) // int(self.rng.choice([1, 8])) * bus
        if stores and self._bit():
            addr += int(self.rng.integers(min(bus, scales["scale_stride"])))
        return scales | {"scale_addr": addr}

    def _load(self) -> Instruction:
        return Load(**self._load_fields("LOAD", (Space.A, Space.A, Space.B, Space.B, Space.ACC, Space.INDEX)))

    def _gather(self) -> Instruction:
        fields = self._load_fields("GATHER", (Space.A, Space.B, Space.ACC, Space.ACC, Space.INDEX))
        return Gather(**fields, index_addr=self._index_addr(fields["rows"]))

    def _index_addr(self, rows: int) -> int:
        return int(self.rng.integers(max(1, min(self.config.index_entries, 20) - rows)))

    def _store_fields(self, name: str) -> dict:
        c = self.config
        space = Space.ACC if self._bit() else Space.A
        fields = self._chip_side(space) | {"space": space}
        fields |= self._scale_side(fields, name)
        step = 4 if space == Space.ACC else 1
        if self._bit(0.5) and "scale" not in fields:
            fields["row_bytes"] = step * self._up_to(c.bus_bytes // step)
            free = (c.bus_bytes - fields["row_bytes"]) // step
            fields["src_byte"] = step * int(self.rng.integers(free + 1))
        segment = self.scratch[int(space == Space.ACC)]
        fields |= self._dram_side(segment, fields["row_bytes"])
        if fields["row_bytes"] < c.bus_bytes:
            free = (c.bus_bytes - fields["row_bytes"]) // step
            fields["dram_addr"] += self._bit() * step * int(self.rng.integers(free + 1))
        return fields

    def _store(self) -> Instruction:
        return Store(**self._store_fields("STORE"))

    def _scatter(self) -> Instruction:
        fields = self._store_fields("SCATTER")
        return Scatter(**fields, index_addr=self._index_addr(fields["rows"]))

    def _matmul(self) -> Instruction:
        """Often one that merges the last raw results, as a chain along k does."""
        c = self.config
        formats = self.formats.matmul(self._up_to(3 * c.rows) if self.long else self._up_to(c.rows + 1))
        k_steps = formats["k_steps"]
        raw = self._bit(0.4)
        last = self.partial
        if last is not None and self._bit(0.6):
            place = {"m_rows": last.m_rows, "n_tiles": last.n_tiles, "acc_addr": last.acc_addr,
                     "acc_pitch": last.acc_pitch, "merge": 1}
        else:
            m_rows = self._up_to(2 * c.rows + 1)
            pitches = (m_rows, m_rows + 1, 1 << c.acc_offset_bits, 4 * c.rows)
            place = {"m_rows": m_rows, "n_tiles": self._up_to(3), "acc_addr": self._acc(),
                     "acc_pitch": int(self.rng.choice(pitches)), "merge": self._bit(0.2)}
        return Matmul(
            a_addr=self._group(Space.A, 1), b_addr=self._group(Space.B, 1), **formats,
            a_pitch=int(self.rng.integers(0, 2 * k_steps)), b_pitch=int(self.rng.integers(0, 2 * k_steps)),
            raw=raw, **place, **({} if raw else self._drain_fields(place["m_rows"], place["n_tiles"])))

    def _drain_fields(self, m_rows: int, n_tiles: int) -> dict:
        """Mask, of either or both limits, and row maximum of a MATMUL that writes FP32."""
        fields = {}
        if self._bit(0.4):
            fields |= {"rowmax": 1, "rowmax_init": self._bit(), "rowmax_addr": self._acc()}
        for limit in ("mask", "mask_low"):
            if self._bit(0.4):
                fields |= {limit: 1, f"{limit}_step": self._bit(),
                           f"{limit}_base": int(self.rng.integers(-m_rows - 1, self.config.cols * n_tiles + 1))}
        return fields

    def _vector(self) -> Instruction:
        """Often one that walks the last VECTOR's destination; at times one that is longer than the pipe is deep."""
        c = self.config
        last, many = self.written, self._bit(0.3)
        if last is not None and self._bit(0.5):
            rows, tiles, pitch, x_addr = last.rows, last.tiles, last.dst_pitch, last.dst_addr
            many = rows * tiles > 3 * c.rows
        elif many:
            rows, tiles, pitch = min(c.acc_bank_rows, 16), int(self.rng.integers(3, 7)), 1 << c.acc_offset_bits
            x_addr = c.acc_addr(int(self.rng.integers(c.acc_banks)))
        else:
            rows, tiles = self._up_to(min(c.acc_bank_rows, 2 * c.rows + 1)), self._up_to(3)
            pitch = int(self.rng.choice([rows, rows, 1 << c.acc_offset_bits, 0]))
            x_addr = self._acc()
        fields: dict = {"x_addr": x_addr, "pitch": pitch, "x_swap": self._bit(0.3) * int(self.rng.integers(4))}
        for role in "yzw":
            kind = Source(int(self.rng.choice(4, p=(0.8, 0.0, 0.1, 0.1) if many else (0.4, 0.2, 0.2, 0.2))))
            fields |= {f"{role}_kind": kind, role: self._immediate() if kind == Source.IMM else self._acc()}
        dest = Dest(int(self.rng.choice(3, p=(0.1, 0.5, 0.4))))
        if dest == Dest.ACC:
            in_place = self._bit(0.7 if many else 0.4)
            fields |= {"dst_addr": x_addr if in_place else self._acc(), "dst_pitch": pitch if in_place else rows}
        elif dest == Dest.A:
            align = max(1, c.cols // c.lanes)
            fields |= {"dst_addr": self._group(Space.A, align), "dst_pitch": align * int(self.rng.integers(1, 6))}
        fields |= {"tiles": tiles, "reduce": Reduce(int(self.rng.integers(4))),
                   "combine": Combine(int(self.rng.integers(5)))}
        if fields["reduce"] != Reduce.NONE:
            fields["reduce_addr"] = self._acc()
        fields |= self.formats.func()
        if dest == Dest.A and (fields["func"] != Func.ANCHOR or self._bit()):
            fields |= self.formats.quantizer(tiles)
        return Vector(rows=rows, dest=dest, **fields)

    # End -------------------------------------------------------------------------------------------

    def dump(self) -> None:
        """Store every bank of A and ACC to outputs."""
        c = self.config
        slice_bytes = c.a_bank_groups * c.lanes
        codes = self.builder.dram("A", c.a_banks * c.rows * slice_bytes)
        for bank in range(c.a_banks):
            self._put(Store(space=Space.A, dram_addr=codes.addr + bank * c.rows * slice_bytes,
                                    row_stride=slice_bytes, rows=c.rows, row_bytes=slice_bytes,
                                    addr=bank << c.a_offset_bits), "dump")
        if c.scales:
            self._dump_scales(slice_bytes)
        self.builder.output("A", codes.addr, (c.a_banks, c.rows, slice_bytes), "e4m3")
        row_bytes = 4 * c.cols
        depths = [c.acc_bank_depth(bank) for bank in range(c.acc_banks + c.stat_banks)]
        values = self.builder.dram("ACC", sum(depths) * row_bytes)
        addr = values.addr
        for bank, depth in enumerate(depths):
            self._put(Store(space=Space.ACC, dram_addr=addr, row_stride=row_bytes, rows=depth,
                                    row_bytes=row_bytes, addr=c.acc_addr(bank)), "dump")
            addr += depth * row_bytes
        self.builder.output("ACC", values.addr, (sum(depths), c.cols), "float32")

    def _dump_scales(self, slice_bytes: int) -> None:
        """Store the scale bytes of A that a layout reaches, with the codes once more."""
        c = self.config
        layout = built_layouts(c)[0]
        block = SCALE_BLOCKS[layout]
        count = slice_bytes // (block.groups * c.lanes)
        stride = -(-count * block.size // c.bus_bytes) * c.bus_bytes
        if not count:
            return
        codes = self.builder.dram("A again", c.a_banks * c.rows * slice_bytes)
        scales = self.builder.dram("A scales", c.a_banks * c.rows * stride)
        for bank in range(c.a_banks):
            row = bank * c.rows
            self._put(Store(space=Space.A, dram_addr=codes.addr + row * slice_bytes, row_stride=slice_bytes,
                                    rows=c.rows, row_bytes=count * block.groups * c.lanes, addr=bank << c.a_offset_bits,
                                    scale=layout, scale_addr=scales.addr + row * stride, scale_stride=stride), "dump")
        self.builder.output("A scales", scales.addr, (c.a_banks, c.rows, stride), "uint8")
