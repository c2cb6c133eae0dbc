"""The registers of the table, in hardware, behind a port of one access per cycle."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec.config import TileConfig
from ..spec.registers import REGISTER_BYTES, REGISTERS, WINDOW_BYTES, WRITABLE, Access, Register, reset_value

ADDR_BITS = (WINDOW_BYTES // REGISTER_BYTES - 1).bit_length()
"""Of a register's number: its offset divided by 4."""


def access_signature() -> wiring.Signature:
    """Port to the registers, seen from the one who asks. Addresses are register numbers.

    In a cycle with ``read_en``, ``read_data`` and ``read_error`` answer at once; in a cycle with ``write_en`` the
    bytes of ``write_strb`` are written and ``write_error`` answers at once. Errors: no such register, or one that
    cannot be written; such a write does nothing.
    """
    return wiring.Signature({
        "read_en": Out(1), "read_addr": Out(ADDR_BITS), "read_data": In(32), "read_error": In(1),
        "write_en": Out(1), "write_addr": Out(ADDR_BITS), "write_data": Out(32), "write_strb": Out(4),
        "write_error": In(1)})


def _members(register: Register) -> dict[str, Any]:
    """Ports of one register on the hardware's side."""
    ports: dict[str, Any] = {}
    for field in register.fields:
        name = register.signal(field)
        match register.access:
            case Access.READ:
                ports[name] = In(field.bits)
            case Access.READ_WRITE:
                init = register.reset >> field.low & (1 << field.bits) - 1
                ports[name] = Out(field.bits, init=init)  # pyright: ignore[reportCallIssue]  the stubs lack init
            case Access.PULSE:
                ports[name] = Out(field.bits)
            case Access.CLEAR:
                ports |= {name: Out(field.bits), f"{name}_set": In(field.bits)}
            case Access.POP:
                ports[name] = In(field.bits)
    if register.access is Access.POP:
        ports[f"{register.name.lower()}_taken"] = Out(1)
    return ports


class RegisterBlock(wiring.Component):
    """All of `REGISTERS`.

    Members
    -------
    bus : In(access_signature())
    <register>_<field>, or <register> when it is one value, in lower case:
        READ, POP : In, what the host reads in this cycle. POP also has <register>_taken : Out(1), the host
        takes the entry at the end of this cycle.
        READ_WRITE : Out, from the cycle after the write.
        PULSE : Out, high in the cycle of the write.
        CLEAR : Out, and <...>_set : In, sets the bit at the end of the cycle; setting wins over clearing.
    """

    bus: Any

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        members: dict[str, Any] = {"bus": In(access_signature())}
        for register in REGISTERS:
            members |= _members(register)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        m.d.comb += [bus.read_error.eq(1), bus.write_error.eq(1)]
        written_bits = Cat(bit.replicate(8) for bit in bus.write_strb)
        with m.Switch(bus.read_addr):
            for register in REGISTERS:
                with m.Case(register.offset // REGISTER_BYTES):
                    m.d.comb += [bus.read_data.eq(self._value(register)), bus.read_error.eq(0)]
                    if register.access is Access.POP:
                        m.d.comb += getattr(self, f"{register.name.lower()}_taken").eq(bus.read_en)
        for register in REGISTERS:
            if register.access in WRITABLE:
                hit = Signal(name=f"hit_{register.name.lower()}")
                m.d.comb += hit.eq(bus.write_addr == register.offset // REGISTER_BYTES)
                with m.If(hit):
                    m.d.comb += bus.write_error.eq(0)
                self._write(m, register, hit & bus.write_en, written_bits)
        return m

    def _value(self, register: Register) -> Value:
        """The register as the host reads it."""
        if register.access is Access.CONSTANT:
            return Const(reset_value(register, self.config), 32)
        if register.access is Access.PULSE:
            return Const(0, 32)
        value: Value = Const(0, 0)
        for field in sorted(register.fields, key=lambda f: f.low):
            value = Cat(value, Const(0, field.low - len(value)), getattr(self, register.signal(field)))
        return value

    def _write(self, m: Module, register: Register, enable: Value, written_bits: Value) -> None:
        for field in register.fields:
            place = slice(field.low, field.low + field.bits)
            value, written = self.bus.write_data[place], written_bits[place]
            port = getattr(self, register.signal(field))
            if register.access is Access.PULSE:
                m.d.comb += port.eq(Mux(enable, value & written, 0))
                continue
            if register.access is Access.CLEAR:
                cleared = Mux(enable, value & written, 0)
                m.d.sync += port.eq(port & ~cleared | getattr(self, f"{register.signal(field)}_set"))
                continue
            with m.If(enable):
                m.d.sync += port.eq(port & ~written | value & written)
