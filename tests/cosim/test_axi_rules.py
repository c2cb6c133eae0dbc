"""Every rule of the monitor finds a violation in a trace, and none in a legal one."""

from __future__ import annotations

import pytest

from tilescore.rtl.spec.registers import mask, offset
from tilescore.tests.cosim.axi_rules import DRIVEN, TAKEN, AxiRules, Rule

BUS = 16
IDLE = {"aresetn": 1, "m_axi_rlast": 0, "m_axi_rresp": 0, "m_axi_bresp": 0, "s_axi_awaddr": 0, "s_axi_wdata": 0,
        "s_axi_wstrb": 15}
for _channel, _fields in DRIVEN.items():
    IDLE |= {f"{_channel}{_name}": 0 for _name in ("valid", "ready", *_fields)}
for _channel in TAKEN:
    IDLE |= {f"{_channel}valid": 0, f"{_channel}ready": 0}


def go(channel: str, ready: int = 1, **fields: int) -> dict[str, int]:
    """Pins of a channel with VALID, and with READY unless told otherwise."""
    return {f"{channel}valid": 1, f"{channel}ready": ready} | {f"{channel}{name}": v for name, v in fields.items()}


def address(channel: str, addr: int, beats: int, ready: int = 1, **fields: int) -> dict[str, int]:
    return go(channel, ready, **({"addr": addr, "len": beats - 1, "size": 4, "burst": 1} | fields))


def command(*names: str) -> dict[str, int]:
    """A register write to CONTROL, address and data in one cycle."""
    return go("s_axi_aw", addr=offset("CONTROL")) | go("s_axi_w", data=mask("CONTROL", *names))


def played(*cycles: dict[str, int]) -> list[Rule]:
    """Rules that the trace breaks, in order; it begins with a reset."""
    rules = AxiRules(BUS)
    for cycle in ({"aresetn": 0}, {"aresetn": 0}, *cycles):
        rules.clock((IDLE | cycle).__getitem__)
    assert all(str(v.cycle) in str(v) and v.rule.value in str(v) for v in rules.violations)
    return [violation.rule for violation in rules.violations]


AR, AW, W, B, R = "m_axi_ar", "m_axi_aw", "m_axi_w", "m_axi_b", "m_axi_r"
READ_2 = (address(AR, 0x1000, 2), go(R), go(R, last=1))
WRITE_2 = (address(AW, 0x2000, 2) | go(W, last=0), go(W, last=1), go(B))

LEGAL = {
    "nothing": [{}],
    "reads and writes": [*READ_2, *WRITE_2],
    "address waits": [address(AR, 64, 1, ready=0), address(AR, 64, 1, ready=0), address(AR, 64, 1), go(R, last=1)],
    "data before the address": [go(W, last=0), go(W, last=1), address(AW, 0x2000, 2), go(B)],
    "two bursts, data of both later": [address(AW, 0, 1), address(AW, 64, 2), go(W, last=1), go(W, last=0),
                                       go(W, last=1), go(B), go(B)],
    "the last beats of a page": [address(AR, 0x1000 - 16 * BUS, 16), *[go(R)] * 15, go(R, last=1)],
    "register access": [go("s_axi_ar"), go("s_axi_r", ready=0), go("s_axi_r"), go("s_axi_aw"), go("s_axi_w"),
                        go("s_axi_b")],
    "an address that was waiting when the error came": [
        address(AR, 0, 1), address(AR, 64, 1, ready=0) | go(R, last=1, resp=2), address(AR, 64, 1), go(R, last=1)],
    "after the error was cleared": [address(AR, 0, 1), go(R, last=1, resp=3), command("CLEAR_ERROR"), go("s_axi_b"),
                                    *WRITE_2],
    "abandoned while the memory is in reset": [address(AR, 0, 1, ready=0), address(AR, 0, 1, ready=0)
                                               | command("ABANDON"), go("s_axi_b"), {}],
    "reset in the middle": [address(AW, 0, 2, ready=0), {"aresetn": 0} | address(AW, 0, 2), {"aresetn": 0}, *READ_2],
}

BROKEN = {
    "VALID falls": ([address(AR, 0, 1, ready=0), {}], [Rule.VALID]),
    "VALID of write data falls": ([go(W, ready=0), {}], [Rule.VALID]),
    "VALID of a register response falls": ([go("s_axi_ar"), go("s_axi_r", ready=0), {}], [Rule.VALID]),
    "VALID falls long after ABANDON": ([command("ABANDON"), go("s_axi_b"), {}, {}, address(AR, 0, 1, ready=0), {}],
                                       [Rule.VALID]),
    "address changes": ([address(AW, 0, 1, ready=0), address(AW, 16, 1)], [Rule.PAYLOAD]),
    "length changes": ([address(AR, 0, 1, ready=0), address(AR, 0, 2)], [Rule.PAYLOAD]),
    "strobe changes": ([address(AW, 0, 1), go(W, ready=0, strb=1, last=1), go(W, strb=3, last=1)], [Rule.PAYLOAD]),
    "register data change": ([go("s_axi_ar"), go("s_axi_r", ready=0, data=1), go("s_axi_r", data=2)], [Rule.PAYLOAD]),
    "crosses 4 KiB": ([address(AR, 0x1FF0, 2)], [Rule.BOUNDARY]),
    "write crosses 4 KiB": ([address(AW, 0x1F80, 16)], [Rule.BOUNDARY]),
    "FIXED burst": ([address(AR, 0, 1, burst=0)], [Rule.SHAPE]),
    "narrow": ([address(AR, 0, 1, size=2)], [Rule.SHAPE]),
    "not aligned": ([address(AR, 8, 1)], [Rule.SHAPE]),
    "17 beats": ([address(AR, 0, 17)], [Rule.SHAPE]),
    "WLAST early": ([address(AW, 0, 3), go(W, last=0), go(W, last=1), go(W, last=1)], [Rule.WLAST]),
    "WLAST missing": ([address(AW, 0, 1), go(W, last=0)], [Rule.WLAST]),
    "WLAST early, address later": ([go(W, last=1), address(AW, 0, 2)], [Rule.WLAST]),
    "write response early": ([address(AW, 0, 2), go(W), go(B)], [Rule.ORDER]),
    "read data without an address": ([go(R, last=1)], [Rule.ORDER]),
    "RLAST early": ([address(AR, 0, 2), go(R, last=1)], [Rule.ORDER]),
    "register response without data": ([go("s_axi_aw"), go("s_axi_b")], [Rule.ORDER]),
    "register response without an address": ([go("s_axi_r")], [Rule.ORDER]),
    "second register response": ([go("s_axi_aw"), go("s_axi_w"), go("s_axi_b"), go("s_axi_b")], [Rule.ORDER]),
    "read after a read error": ([address(AR, 0, 1), go(R, last=1, resp=2), address(AR, 64, 1)], [Rule.AFTER_ERROR]),
    "write after a read error": ([address(AR, 0, 1), go(R, last=1, resp=2), {}, address(AW, 64, 1, ready=0)],
                                 [Rule.AFTER_ERROR]),
    "read after a write error": ([*WRITE_2[:2], go(B, resp=3), command("START"), go("s_axi_b"), address(AR, 64, 1)],
                                 [Rule.AFTER_ERROR]),
    "VALID in reset": ([{"aresetn": 0}, {"aresetn": 0} | address(AR, 0, 1)], [Rule.RESET]),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_traces(name: str) -> None:
    assert played(*LEGAL[name]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_violations_are_found(name: str) -> None:
    trace, rules = BROKEN[name]
    assert played(*trace) == rules


def test_every_rule_is_broken_by_some_trace() -> None:
    assert {rule for _, rules in BROKEN.values() for rule in rules} | {Rule.UNKNOWN} == set(Rule)


def test_unknown_values() -> None:
    def pins(name: str) -> int:
        if name == "m_axi_awvalid":
            raise ValueError("m_axi_awvalid is X")
        return IDLE[name]

    rules = AxiRules(BUS)
    rules.clock(pins)
    assert [v.rule for v in rules.violations] == [Rule.UNKNOWN]


def test_a_memory_that_was_reset_owes_nothing() -> None:
    rules = AxiRules(BUS)
    rules.clock((IDLE | address(AR, 0, 2)).__getitem__)
    rules.clock((IDLE | address(AW, 0, 2)).__getitem__)
    rules.forget()
    for cycle in (*READ_2, *WRITE_2):
        rules.clock((IDLE | cycle).__getitem__)
    assert rules.violations == []
