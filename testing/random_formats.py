"""The part of random programs that is about formats: data that makes sense in them, and fields of instructions.

Any byte is a code of every element format and most are scale bytes of every kind, so instructions may mix formats
freely: results are then odd, but defined. Only NaN is kept rare, since it hides everything else. So each program has a
*theme*, the formats that its data is made for, and about half of its instructions keep to it.
"""

from collections.abc import Sequence

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.encoding import fp32_bits
from ..rtl.spec.formats import BLOCK_ELEMENTS, PAIRS, SCALE_NAMES, SCALE_PAIRS, headroom
from ..rtl.spec.isa import Combine, Func, Pair, Quant, Reduce, Scale, ScaleLayout, ScaleRule, Source, Space
from ..rtl.spec.scale_layout import SCALE_BLOCKS, built_layouts
from ..rtl.spec.tensor_formats import QUANT_FORMATS, built_quantizers

_KEEPS_THEME = 0.5
_SMALL_ORDERS = 24
"""Scale bytes of the E8M0 theme lie at most this many binary orders below their anchor, as a rule."""


class FormatDrawer:
    """Draws what one program needs; the tile's config says what is built."""

    def __init__(self, config: TileConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.pairs = [pair for pair, spec in PAIRS.items() if spec.build_name in config.formats]
        self.scales = [Scale.NONE, *(scale for scale, name in SCALE_NAMES.items() if name in config.scales)]
        self.theme_scale = Scale(int(rng.choice(self.scales)))
        pairs = [pair for pair in SCALE_PAIRS.get(self.theme_scale, tuple(PAIRS)) if pair in self.pairs]
        self.theme_pair = Pair(int(rng.choice(pairs or self.pairs)))

    def _bit(self, probability: float = 0.5) -> int:
        return int(self.rng.random() < probability)

    # Data ------------------------------------------------------------------------------------------

    def codes(self, size: int, nan: float) -> np.ndarray:
        """Element codes; a NaN of the theme's formats with probability ``nan``, and no other special ones."""
        codes = self.rng.integers(0, 256, size).astype(np.uint8)
        if PAIRS[self.theme_pair].a.has_infinity or PAIRS[self.theme_pair].b.has_infinity:
            special = (codes & 0x7C) == 0x7C
            codes[special] ^= 0x40
            codes[self.rng.random(size) < nan] |= 0x7C
        else:
            codes[(codes & 127) == 127] ^= 1
            codes[self.rng.random(size) < nan] |= 127
        return codes

    def scale_bytes(self, size: int) -> np.ndarray:
        """(size,) uint8, a multiple of 4: scales of the theme, some zero or extreme, very few NaN."""
        rng = self.rng
        if self.theme_scale == Scale.FP32:
            values = np.ldexp(1 + rng.random(size // 4), -rng.integers(1, 12, size // 4)).astype(np.float32)
            values[rng.random(size // 4) < 0.02] = rng.choice(np.array([0, 1, 2.0**-126, 1e-44, 1.75], np.float32))
            data = values.view(np.uint8).copy()
        elif self.theme_scale == Scale.E4M3:
            data = rng.integers(0, 256, size).astype(np.uint8)
            data[(data & 127) == 127] ^= 1
        else:
            most = int(rng.choice([2, _SMALL_ORDERS, 60]))
            data = rng.integers(0, most, size).astype(np.uint8)
            data[rng.random(size) < 0.01] = rng.integers(0, 255)
        if self._bit(0.2):
            data[rng.random(size) < 0.005] = 0xFF
        return data

    # Fields ----------------------------------------------------------------------------------------

    def dma_scales(self, fields: dict, name: str, most_bytes: int) -> dict:
        """Fields of scale bytes but for their address, for a DMA instruction of A or B; at times none.

        ``row_bytes`` becomes a number of whole blocks, up to ``most_bytes`` or one block.
        """
        layouts = built_layouts(self.config)
        if not layouts or fields["space"] not in (Space.A, Space.B) or self._bit(0.3):
            return {}
        bus, layout = self.config.bus_bytes, ScaleLayout(int(self.rng.choice(layouts)))
        block = SCALE_BLOCKS[layout]
        count = int(self.rng.integers(1, max(1, most_bytes // (block.groups * self.config.lanes)) + 1))
        size = count * block.size
        strides = [-(-size // bus) * bus, (-(-size // bus) + 1) * bus]
        if name != "GATHER":
            strides += [stride for stride in (1 << bit for bit in range(bus.bit_length())) if stride >= size]
        if name == "LOAD" and size <= bus:
            strides += [0, 0]
        return {"row_bytes": count * block.groups * self.config.lanes, "scale": layout,
                "scale_stride": int(self.rng.choice(strides))}

    def matmul(self, k_steps: int) -> dict:
        """Fields of formats and ``k_steps``, which becomes a number of whole blocks."""
        keep = self._bit(_KEEPS_THEME)
        scale = self.theme_scale if keep else Scale(int(self.rng.choice(self.scales)))
        pairs = [pair for pair in SCALE_PAIRS.get(scale, tuple(PAIRS)) if pair in self.pairs]
        if not pairs or (scale != Scale.NONE and self._bit(0.15)):
            scale, pairs = Scale.NONE, self.pairs
        pair = self.theme_pair if keep and self.theme_pair in pairs else Pair(int(self.rng.choice(pairs)))
        if scale == Scale.NONE:
            return {"pair": pair, "k_steps": k_steps}
        elements = int(self.rng.choice(BLOCK_ELEMENTS[scale]))
        steps = elements // PAIRS[pair].products_per_step(self.config.lanes)
        blocks = max(k_steps // steps, int(self.rng.choice((1, 1, 2, 3))))
        sides = int(self.rng.choice((1, 2, 3, 3, 3)))
        return {"pair": pair, "scale": scale, "a_scaled": sides & 1, "b_scaled": sides >> 1,
                "block": steps.bit_length() - 1, "k_steps": blocks * steps,
                "headroom": self._headroom(pair, scale, elements, blocks)}

    def _headroom(self, pair: Pair, scale: Scale, elements: int, blocks: int) -> int:
        """What the compiler would choose, for a sum of which this is a part, or sometimes less."""
        whole = blocks << int(self.rng.integers(0, 6))
        try:
            most = headroom(pair, scale, elements, whole, self.config.acc_bits)
        except ValueError:
            return 0
        return int(self.rng.integers(0, most + 1)) if self._bit(0.3) else most

    def quantizer(self, tiles: int) -> dict:
        """VECTOR fields of a format written to A; those of a block format replace tiles, combine, z and reduce."""
        fields = self._quant(built_quantizers(self.config))
        block = QUANT_FORMATS[fields["quant"]].block
        if not block:
            return fields
        step = max(1, block // self.config.cols)
        fields |= {"tiles": -(-tiles // step) * step, "combine": Combine.NONE, "reduce": Reduce.NONE, "reduce_addr": 0}
        if tiles < step and (step > 4 or self._bit()):
            fields["pitch"] = 0
        if self._bit(0.7):
            fields |= {"z_kind": Source.IMM, "z": fp32_bits(2.0 ** int(self.rng.integers(-20, 20)))}
        return fields

    def func(self) -> dict:
        """func of a VECTOR, and the format and rule that ANCHOR is for."""
        anchored = [quant for quant in built_quantizers(self.config) if QUANT_FORMATS[quant].anchored]
        func = Func(int(self.rng.choice([func for func in Func if anchored or func != Func.ANCHOR])))
        return {"func": func} | (self._quant(anchored) if func == Func.ANCHOR else {})

    def _quant(self, among: Sequence[Quant]) -> dict:
        return {"quant": Quant(int(self.rng.choice(among))), "scale_rule": ScaleRule(int(self.rng.integers(3)))}
