r"""Readable Verilog from what Yosys writes: plain names, one module per distinct component, a documented top.

Yosys names generated signals ``\$12``, ``\port$348$0`` or ``\stage_1.valid``, legal but hard to type, and gives every
instance of a component a module of its own. The passes here work on the text, not on the design; none changes what
a simulator computes.
"""

import re
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\(\S+)(?=\s)")
_MODULE = re.compile(r"^module (\S+?) ?\((.*?)\);\n(.*?)^endmodule$", re.MULTILINE | re.DOTALL)
_TRIGGER = re.compile(r"\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+")
_PORT = re.compile(r"^  (input|output)( \[[^]]+\])? (\w+);$", re.MULTILINE)

_WORDS = """
    accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin
    bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking
    cmos config const constraint context continue cover covergroup coverpoint cross deassign default defparam
    design disable dist do edge else end endcase endchecker endclass endclocking endconfig endfunction
    endgenerate endgroup endinterface endmodule endpackage endprimitive endprogram endproperty endsequence
    endspecify endtable endtask enum event eventually expect export extends extern final first_match for force
    foreach forever fork forkjoin function generate genvar global highz0 highz1 if iff ifnone ignore_bins
    illegal_bins implements implies import incdir include initial inout input inside instance int integer
    interconnect interface intersect join join_any join_none large let liblist library local localparam logic
    longint macromodule matches medium modport module nand negedge nettype new nexttime nmos nor
    noshowcancelled not notif0 notif1 null or output package packed parameter pmos posedge primitive priority
    program property protected pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent pure rand
    randc randcase randsequence rcmos real realtime ref reg reject_on release repeat restrict return rnmos
    rpmos rtran rtranif0 rtranif1 s_always s_eventually s_nexttime s_until s_until_with scalared sequence
    shortint shortreal showcancelled signed small soft solve specify specparam static string strong strong0
    strong1 struct super supply0 supply1 sync_accept_on sync_reject_on table tagged task this throughout time
    timeprecision timeunit tran tranif0 tranif1 tri tri0 tri1 triand trior trireg type typedef union unique
    unique0 unsigned until until_with untyped use uwire var vectored virtual void wait wait_order wand weak
    weak0 weak1 while wildcard wire with within wor xnor xor
"""

KEYWORDS = frozenset(_WORDS.split())
"""Reserved words of Verilog and SystemVerilog (IEEE 1800-2017, annex B)."""


@dataclass(frozen=True)
class PortText:
    """What the top module's declaration of a port shows: ``attributes`` in order, name and value."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()


def plain_names(text: str) -> str:
    r"""Replace every escaped identifier by a plain one: ``\a$12`` by ``a_12``, ``\$12`` by ``n12``, dots by ``_``.

    A name means the same wherever it stands, so ports still match. Names are distinct from each other, from all
    other identifiers of the text and from `KEYWORDS`. The signal that starts Yosys's combinational processes in
    simulation gets the same name in every module, and its value from an `initial` process: SystemVerilog simulators
    (Icarus 11 with -g2012) set ``reg x = 0`` before any process waits for it, which then never runs.
    """
    plain = plain_map(text)
    text = re.sub(r"\\(\S+)\s", lambda found: plain[found[1]], _TRIGGER.sub("always_trigger", text))
    return text.replace("reg always_trigger = 0;", "reg always_trigger;\n  initial always_trigger = 0;")


def plain_map(text: str) -> dict[str, str]:
    """What `plain_names` calls every escaped identifier of ``text``."""
    text = _TRIGGER.sub("always_trigger", text)
    taken = set(re.findall(r"(?<![\\\w$.'])[A-Za-z_]\w*", _ESCAPED.sub("", text))) | KEYWORDS
    plain: dict[str, str] = {}
    for name in dict.fromkeys(_ESCAPED.findall(text)):
        wanted = _plain(name)
        candidate, number = wanted, 1
        while candidate in taken:
            number += 1
            candidate = f"{wanted}_{number}"
        plain[name] = candidate
        taken.add(candidate)
    return plain


def _plain(name: str) -> str:
    name = re.sub(r"^\$(\d)", r"n\1", name)
    name = re.sub(r"\W+", "_", name).strip("_")
    return name if re.match(r"[A-Za-z_]", name) else f"n_{name}"


def merge_equal_modules(text: str, top: str) -> tuple[str, dict[str, str]]:
    """Keep one of all modules with the same text; instances of the others become instances of it.

    It is called by what the names of all have in common, or else as the first of them. Repeats until no two are
    equal, so equal trees of modules merge from the leaves up. Ports are compared regardless of their order.

    Returns the text, and for every module that was there the name of the one that it has become.
    """
    became = {name: name for name, _, _ in _MODULE.findall(text)}
    while True:
        groups: dict[str, list[str]] = {}
        for name, ports, body in _MODULE.findall(text):
            if name != top:
                key = ", ".join(sorted(port.strip() for port in ports.split(","))) + "\n" + body
                groups.setdefault(key, []).append(name)
        merged = {names[0]: names for names in groups.values() if len(names) > 1}
        if not merged:
            return text, became
        dropped = {name for names in merged.values() for name in names[1:]}
        text = _MODULE.sub(lambda found, dropped=dropped: "" if found[1] in dropped else found[0], text)
        taken = set(re.findall(r"[A-Za-z_]\w*", text))
        for first, names in merged.items():
            shared = _common_name(names)
            kept = shared if shared and shared not in taken else first
            taken.add(kept)
            pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b(?= \w+ \(|\()")
            text = pattern.sub(kept, text)
            became = {name: kept if now in names else now for name, now in became.items()}
        text = re.sub(r"\n{3,}", "\n\n", text)


def _common_name(names: list[str]) -> str:
    """Leading words (between underscores) that all names share, then trailing ones: x_read_timer, x_write_timer ->
    x_timer."""
    words = [name.split("_") for name in names]
    shortest = min(map(len, words))
    lead = next((n for n in range(shortest) if len({tuple(w[:n + 1]) for w in words}) > 1), shortest)
    tail = next((n for n in range(shortest - lead) if len({tuple(w[len(w) - n - 1:]) for w in words}) > 1),
                shortest - lead)
    first = words[0]
    return "_".join(first[:lead] + first[len(first) - tail:])


def document_top(text: str, top: str, ports: list[PortText]) -> str:
    """List the ports of module ``top`` in the given order, one per line, and declare them with their attributes.

    Raises `ValueError` when ``ports`` and the module's ports differ.
    """
    for found in _MODULE.finditer(text):
        if found[1] != top:
            continue
        declared = {port.strip() for port in found[2].split(",")}
        if declared != {port.name for port in ports}:
            raise ValueError(f"ports of {top}: {sorted(declared ^ {port.name for port in ports})} differ")
        attributes = {port.name: port.attributes for port in ports}

        def declare(line: re.Match, attributes: dict = attributes) -> str:
            lines = [f'  (* {name} = "{value}" *)' for name, value in attributes[line[3]]]
            return "\n".join([*lines, line[0]])

        header = f"module {top}(\n  " + ",\n  ".join(port.name for port in ports) + "\n);\n"
        return text[:found.start()] + header + _PORT.sub(declare, found[3]) + "endmodule" + text[found.end():]
    raise ValueError(f"no module {top}")
