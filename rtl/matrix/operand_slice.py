"""One slice of an operand buffer: the memory beside one row (buffer A) or one column (buffer B) of the array.

A slice is cut into banks, each its own memory with one read and one write port, so that different units can
work in different banks in the same cycle. A bank's words are wider than the groups that the array reads: as
wide as a bus beat or, in A, as a row of codes from the vector unit. Scale bytes of block-scaled operands are
part of these words, one for each group, so that data and scales have one address and cannot come apart.

A k step's address and tags come from the slice before and go to the slice after, one register apart. So
operands are skewed as the array needs them without any skew registers for data.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..spec.config import TileConfig
from .operand_edge import OperandEdge, a_step_layout, b_step_layout, reads_group, step_valid
from .pe import a_operand_layout, b_operand_shape
from .scale_edge import scale_operand_layout

A_SLICE_KEY, B_SLICE_KEY = "tilescore_a_slice", "tilescore_b_slice"
"""Names of the slices' modules in the Verilog."""


def slice_ports(config: TileConfig, buffer: str) -> dict[str, Signature]:
    """Ports of a slice for the units other than the array.

    load: {valid, addr, data, mask, scales, scale_mask}
        Writes the masked bytes of a bus beat and the masked scale bytes of its groups; ``addr`` is aligned to
        a beat. Visible to reads one cycle later.
    vec (A only): {valid, addr, sub, data, mask, scales, scale_mask}
        Writes the masked of ``cols`` bytes at byte ``sub`` of group ``addr``, aligned to ``cols`` bytes, and
        scale bytes of the groups that they lie in. ``mask`` is all ones if nothing drives it. Visible one
        cycle later.
    store (A only): {en, addr, data, scales}
        Reads a bus beat and its groups' scale bytes, two cycles after ``en``.

    The first of the scale bytes is the lowest byte of ``scales``. A tile without block scales has no memory
    for them: they read as 0.
    """
    addr = config.a_addr_bits if buffer == "a" else config.b_addr_bits
    bus, cols = config.bus_bytes, config.cols
    beat_groups, row_groups = bus // config.lanes, max(1, cols // config.lanes)
    ports = {"load": Signature({"valid": Out(1), "addr": Out(addr), "data": Out(8 * bus), "mask": Out(bus),
                                "scales": Out(8 * beat_groups), "scale_mask": Out(beat_groups)})}
    if buffer == "a":
        ports["vec"] = Signature({"valid": Out(1), "addr": Out(addr), "sub": Out(ceil_log2(config.lanes)),
                                  "data": Out(8 * cols), "mask": Out(cols, init=(1 << cols) - 1),  # pyright: ignore[reportCallIssue]
                                  "scales": Out(8 * row_groups), "scale_mask": Out(row_groups)})
        ports["store"] = Signature({"en": Out(1), "addr": Out(addr), "data": In(8 * bus),
                                    "scales": In(8 * beat_groups)})
    return ports


class OperandSlice(wiring.Component):
    """Parameters: ``config``, and ``buffer``, which is "a" or "b".

    Addresses count groups of ``lanes`` bytes and hold the bank and the offset in it
    (`TileConfig.a_offset_bits`).

    Members
    -------
    step_in, step_out : a_step_layout or b_step_layout
    operand : Out(a_operand_layout), in B Out(b_operand_shape)
    scale : Out(scale_operand_layout), only with block scales
        Of the step at ``step_in``; see `OperandEdge`.
    reading : Out(1)
        The array reads a group in this cycle.
    load, vec, store
        See `slice_ports`; ``vec`` and ``store`` are A's.
    conflict : Out(1)
        Two reads or two writes of this cycle are in the same bank. Always low in B, which has one port of
        each kind.
    """

    step_in: data.View
    step_out: data.View
    operand: Any
    scale: data.View
    reading: Signal
    load: Any
    vec: Any
    store: Any
    conflict: Signal

    def __init__(self, config: TileConfig, *, buffer: str) -> None:
        if buffer not in ("a", "b"):
            raise ValueError(f"buffer must be 'a' or 'b', not {buffer!r}")
        self.config = config
        self.is_a = buffer == "a"
        self.banks = getattr(config, f"{buffer}_banks")
        self.word_bytes = getattr(config, f"{buffer}_word_bytes")
        # At least two words, see `DelayedQueue`.
        self.depth = max(2, getattr(config, f"{buffer}_bank_groups") * config.lanes // self.word_bytes)
        self.scale_bytes = self.word_bytes // config.lanes if config.scales else 0
        self.offset_bits = getattr(config, f"{buffer}_offset_bits")
        self.sub_bits = ceil_log2(self.word_bytes // config.lanes)
        self.bank_bits = getattr(config, f"{buffer}_addr_bits") - self.offset_bits
        step = a_step_layout(config) if self.is_a else b_step_layout(config)
        members: dict = {
            "step_in": In(step), "step_out": Out(step),
            "operand": Out(a_operand_layout(config) if self.is_a else b_operand_shape(config)),
            **({"scale": Out(scale_operand_layout(config, buffer))} if config.scales else {}),
            "reading": Out(1),
            "conflict": Out(1), **{name: In(port) for name, port in slice_ports(config, buffer).items()},
        }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reads = [(self.reading, self.step_in.addr)]
        writes = [(self.load.valid, self.load.addr, *self._load_word())]
        if self.is_a:
            reads.append((self.store.en, self.store.addr))
            writes.append((self.vec.valid, self.vec.addr, *self._vec_word()))
        words, conflicts = [], []
        for b in range(self.banks):
            word, conflict = self._bank(m, b, reads, writes)
            words.append(word)
            conflicts.append(conflict)
        m.d.comb += self.conflict.eq(Cat(conflicts).any())
        self._step(m)
        self._operand(m, words)
        if self.is_a:
            self._store(m, words)
        return m

    # Addresses ----------------------------------------------------------------------------------------------

    def _bank_of(self, addr: Value) -> Value:
        return addr[self.offset_bits:]

    def _word_of(self, addr: Value) -> Value:
        return addr[self.sub_bits:self.offset_bits]

    def _part_of(self, addr: Value, size: int) -> Value:
        """Which part of ``size`` bytes, a multiple of a group, of its word a group address means."""
        return addr[ceil_log2(size // self.config.lanes):self.sub_bits]

    # Writes -------------------------------------------------------------------------------------------------

    def _load_word(self) -> tuple[Value, Value]:
        part = self._part_of(self.load.addr, self.config.bus_bytes)
        data, enables = _widen(self.load.data, self.load.mask, part, self.word_bytes)
        return self._with_scales(data, enables, self.load, part)

    def _vec_word(self) -> tuple[Value, Value]:
        """The byte in the word is {group in the word, sub}; a row of codes may be smaller than a group."""
        config = self.config
        byte = Cat(self.vec.sub, self.vec.addr[:self.sub_bits])
        data, enables = _widen(self.vec.data, self.vec.mask, byte[ceil_log2(config.cols):], self.word_bytes)
        return self._with_scales(data, enables, self.vec,
                                 self._part_of(self.vec.addr, max(config.cols, config.lanes)))

    def _with_scales(self, data: Value, enables: Value, port: Any, part: Value) -> tuple[Value, Value]:
        """Word and enables with the scale bytes above the data."""
        if not self.scale_bytes:
            return data, enables
        scales, scale_enables = _widen(port.scales, port.scale_mask, part, self.scale_bytes)
        return Cat(data, scales), Cat(enables, scale_enables)

    # Banks --------------------------------------------------------------------------------------------------

    def _bank(self, m: Module, b: int, reads: list, writes: list) -> tuple[Value, Value]:
        """Build bank ``b``; return its read data and whether two ports want it."""
        bank = memory.Memory(
            shape=Shape(8 * (self.word_bytes + self.scale_bytes)), depth=self.depth, init=[])
        m.submodules[f"bank{b}"] = bank
        read = bank.read_port()
        write = bank.write_port(granularity=8)
        read_hits = Signal(len(reads), name=f"bank{b}_reads")
        write_hits = Signal(len(writes), name=f"bank{b}_writes")
        m.d.comb += read.en.eq(read_hits.any())
        for i, (en, addr) in reversed(list(enumerate(reads))):
            m.d.comb += read_hits[i].eq(en & (self._bank_of(addr) == b))
            with m.If(read_hits[i]):
                m.d.comb += read.addr.eq(self._word_of(addr))
        for i, (valid, addr, word, enables) in reversed(list(enumerate(writes))):
            m.d.comb += write_hits[i].eq(valid & (self._bank_of(addr) == b))
            with m.If(write_hits[i]):
                m.d.comb += [write.addr.eq(self._word_of(addr)), write.data.eq(word), write.en.eq(enables)]
        return read.data, read_hits.all() & (len(reads) > 1) | write_hits.all() & (len(writes) > 1)

    # Reads --------------------------------------------------------------------------------------------------

    def _step(self, m: Module) -> None:
        step, later = self.step_in, self.step_out
        valid = step_valid(step)
        with m.If(valid):
            m.d.sync += [later[name].eq(step[name]) for name, _ in step.shape() if name not in ("rows", "valid")]
        if self.is_a:
            m.d.comb += self.reading.eq(valid)
            m.d.sync += later.rows.eq(Mux(valid, step.rows - 1, 0))
        else:
            m.d.comb += self.reading.eq(reads_group(self.config, step))
            m.d.sync += later.valid.eq(valid)

    def _select(self, m: Module, name: str, en: Value, addr: Value, words: list) -> tuple[Value, Signal, Signal]:
        """The cycle after a read: its word, its enable and its address in the word."""
        enabled = Signal(name=f"{name}_enabled")
        bank = Signal(self.bank_bits, name=f"{name}_bank", reset_less=True)
        sub = Signal(self.sub_bits, name=f"{name}_sub", reset_less=True)
        m.d.sync += enabled.eq(en)
        with m.If(en):
            m.d.sync += [bank.eq(self._bank_of(addr)), sub.eq(addr[:self.sub_bits])]
        word = Signal(8 * (self.word_bytes + self.scale_bytes), name=f"{name}_word")
        with m.Switch(bank):
            for b, bank_word in enumerate(words):
                with m.Case(b):
                    m.d.comb += word.eq(bank_word)
        return word, enabled, sub

    def _operand(self, m: Module, words: list) -> None:
        word, _, sub = self._select(m, "array", self.reading, self.step_in.addr, words)
        m.submodules.edge = edge = OperandEdge(self.config, side="a" if self.is_a else "b")
        m.d.comb += [
            edge.step.eq(self.step_in), edge.group.eq(_part(word[:8 * self.word_bytes], sub, 8 * self.config.lanes)),
            self.operand.eq(edge.operand),
        ]
        if self.scale_bytes:
            m.d.comb += [edge.byte.eq(_part(word[8 * self.word_bytes:], sub, 8)), self.scale.eq(edge.scale)]

    def _store(self, m: Module, words: list) -> None:
        word, enabled, sub = self._select(m, "store", self.store.en, self.store.addr, words)
        beat = Signal(8 * self.config.bus_bytes, reset_less=True)
        part = self._part_of(sub, self.config.bus_bytes)
        scales = Signal.like(self.store.scales, reset_less=True)
        with m.If(enabled):
            m.d.sync += beat.eq(_part(word[:8 * self.word_bytes], part, len(beat)))
            if self.scale_bytes:
                m.d.sync += scales.eq(_part(word[8 * self.word_bytes:], part, len(scales)))
        m.d.comb += [self.store.data.eq(beat), self.store.scales.eq(scales)]


def _widen(part_data: Value, mask: Value, part: Value, word_bytes: int) -> tuple[Value, Value]:
    """Data and byte enables of a word that has ``part_data`` in part number ``part``."""
    count = word_bytes // len(mask)
    enables = [Mux(part == i, mask, 0) if count > 1 else mask for i in range(count)]
    return part_data.replicate(count), Cat(enables)


def _part(word: Value, part: Value, bits: int) -> Value:
    """Part number ``part`` of a word that consists of parts of ``bits`` bits."""
    return word.word_select(part, bits) if len(word) > bits else word
