"""Cells: components of which a tile holds many, converted to Verilog once.

Amaranth emits one Verilog module per component object: 2.9 MB and 18 s for a 16 x 16 array, against 0.2 MB
and 1.4 s when the processing element is converted once and instantiated. Merging equal modules afterwards
gives the same text but still pays for the elaboration. An `Instance` on the other hand cannot be simulated by
Amaranth. So parents place cells with `place`, which builds real components unless the platform is a
`CellLibrary`::

    lanes = [place(m, f"lane{c}", lambda: Lane(config), "lane", platform) for c in range(config.cols)]

and use the result as they would use the component: it has the same members.
"""

from collections.abc import Callable
from typing import Any

from amaranth.back import rtlil, verilog  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Shape, ShapeCastable, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In


class CellLibrary:
    """The platform of an export: keeps one component for each key, its Verilog module's name.

    Elaborate the design with the library as platform, then take the cells' text from `verilog`. All cells are
    in the ``sync`` domain; their ports are ``clk``, ``rst`` and the members' flattened names, joined by
    ``__``. dot_at_once: processing elements hold `arith.dot_at_once`, for simulators.
    """

    def __init__(self, *, dot_at_once: bool = False) -> None:
        self.dot_at_once = dot_at_once
        self._cells: dict[str, wiring.Component] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """Module names of the cells placed so far."""
        return tuple(self._cells)

    def cell(self, key: str, factory: Callable[[], wiring.Component]) -> wiring.Component:
        """The component kept under ``key``, built by ``factory`` at the first call."""
        if key not in self._cells:
            self._cells[key] = factory()
        return self._cells[key]

    def verilog(self, **options: Any) -> str:
        """Text of all cells. ``options`` go to `amaranth.back.verilog.convert`."""
        return "\n".join(self.converted(verilog.convert, **options))

    def rtlil(self, **options: Any) -> list[str]:
        """RTLIL of each of these cells. ``options`` go to `amaranth.back.rtlil.convert`."""
        return self.converted(rtlil.convert, **options)

    def converted(self, convert: Callable[..., str], **options: Any) -> list[str]:
        """What ``convert(component, name=, platform=, **options)`` makes of each cell, those inside cells included."""
        texts: dict[str, str] = {}
        while missing := [key for key in self._cells if key not in texts]:
            for key in missing:
                texts[key] = convert(self._cells[key], name=key, platform=self, **options)
        return list(texts.values())


def place(m: Module, name: str, factory: Callable[[], wiring.Component], key: str, platform: object) -> Any:
    """Add a cell as submodule ``name`` of ``m`` and return its interface.

    ``factory`` must build equal components whenever it is called with the same ``key``. The result is the
    component itself, or with a `CellLibrary` as platform a bare interface with the members of the component's
    signature, connected to an `Instance` of the module ``key``.
    """
    if not isinstance(platform, CellLibrary):
        component: Any = factory()
        m.submodules[name] = component
        return component
    signature = platform.cell(key, factory).signature
    interface = _bare_interface(signature, name)
    ports: dict[str, Any] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
    for path, member, value in signature.flatten(interface):
        prefix = "i" if member.flow == In else "o"
        ports[f"{prefix}_{'__'.join(map(str, path))}"] = value
    m.submodules[name] = Instance(key, **ports)
    return interface


def _bare_interface(signature: wiring.Signature, name: str) -> Any:
    """An interface whose structured members are views of plain signals.

    Amaranth names every field of a structured signal in the Verilog; for the ports of instances that is most
    of the text (8.1 MB of 10.7 MB in `server`) and says nothing that the cell does not say.
    """
    interface = signature.create(path=(name,))
    for member_name, member in signature.members.items():
        if member.is_port and not member.dimensions and isinstance(member.shape, ShapeCastable):
            signal = Signal(Shape.cast(member.shape), name=f"{name}__{member_name}")
            setattr(interface, member_name, member.shape(signal))
    return interface
