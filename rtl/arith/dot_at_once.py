"""The dot product without its pipeline: for simulators, which have no clock period.

Same ports, bits and latency as `DotProduct`; the sum is made in the first cycle and then waits. It is what a processing
element holds in a model that is built with ``dot_at_once``; nothing that is exported or tested as hardware uses it.
"""

from amaranth.hdl import Module, Mux, Signal, Value, signed

from .dot import DotProduct, e2m1_product
from .lane_format import LaneFields


class DotAtOnce(DotProduct):
    """See `DotProduct`. Written from its contract: products of the lanes' values, added; its tree is not used."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total: Value | int = 0
        flags: dict[str, Value] = {}
        for lane in range(self.lanes):
            a = self.a_format.fields(self.a_format.lane(self.a, lane))
            b = self.b_format.fields(self.b_format.lane(self.b, lane))
            total = total + self._value(m, lane, a, b)
            found = self.lane_flags(m, lane, a, b)
            flags = {name: flags[name] | found[name] if flags else found[name] for name in self.flag_kinds}
        values = {"sum": total, **flags}
        for stage in range(self.LATENCY):
            later = {name: Signal(self.signature.members[name].shape, name=f"{name}_{stage}", reset_less=True)
                     for name in values}
            with m.If(self.enable[stage]):
                m.d.sync += [later[name].eq(value) for name, value in values.items()]
            values = later
        m.d.comb += [getattr(self, name).eq(value) for name, value in values.items()]
        return m

    def _value(self, m: Module, lane: int, a: LaneFields, b: LaneFields) -> Value:
        """Signed product or products of a lane."""
        sizes = (a.magnitude, b.magnitude) if self.multiplier == "dsp" else (a.significand, b.significand)
        size = Signal(sum(map(len, sizes)), name=f"size_{lane}")
        m.d.comb += size.eq(Mux(a.special | b.special, 0, sizes[0] * sizes[1]))
        product: Value = size if self.multiplier == "dsp" else size << (a.shift + b.shift)
        width = min(len(product), len(self.sum))
        value = Signal(signed(len(self.sum)), name=f"value_{lane}")
        m.d.comb += value.eq(Mux(a.sign ^ b.sign, -product[:width], product[:width]))
        if a.high is None or b.high is None:
            return value
        return value + e2m1_product(m, lane, a.high, b.high)
