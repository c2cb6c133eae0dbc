"""A self-test as Verilog and as C: what the exported test bench and C program are filled with."""

from collections.abc import Iterator

from ..spec.self_test import SelfTest


def _beats(data: bytes, bus_bytes: int) -> Iterator[tuple[int, str]]:
    """(number, Verilog constant) of each beat."""
    for low in range(0, len(data), bus_bytes):
        value = int.from_bytes(data[low:low + bus_bytes], "little")
        yield low // bus_bytes, f"{8 * bus_bytes}'h{value:x}"


def verilog_memory(test: SelfTest, bus_bytes: int) -> str:
    """Statements that fill the array ``memory``, which is zero."""
    zero = f"{8 * bus_bytes}'h0"
    return "\n".join(f"    memory[{beat}] = {value};" for beat, value in _beats(test.memory, bus_bytes)
                     if value != zero)


def verilog_checks(test: SelfTest, bus_bytes: int) -> str:
    """Calls of the task ``check_beat`` (beat, expected value, name)."""
    return "\n".join(f'    check_beat({expected.addr // bus_bytes + beat}, {value}, "{expected.name}");'
                     for expected in test.expected for beat, value in _beats(expected.data, bus_bytes))


def c_data(test: SelfTest, name: str) -> str:
    """Constants and arrays of the C program, behind a prefix."""
    prefix = name.upper()
    rows = "\n".join(f'    {{"{e.name}", 0x{e.addr:x}u, {len(e.data)}u, {name}_result_{number}}},'
                     for number, e in enumerate(test.expected))
    arrays = [_c_array(f"{name}_result_{number}", e.data) for number, e in enumerate(test.expected)]
    return "\n".join([
        f"#define {prefix}_SELFTEST_PROGRAM_ADDR 0x{test.program_addr:x}u",
        f"#define {prefix}_SELFTEST_FLAGS 0x{test.flags:x}u", "",
        _c_array(f"{name}_memory", test.memory), *arrays,
        "static const struct {", "    const char *name;", "    uint32_t address;", "    uint32_t size;",
        "    const uint8_t *data;", f"}} {name}_results[] = {{", rows, "};"])


def _c_array(name: str, data: bytes) -> str:
    lines = [", ".join(map(str, data[low:low + 32])) for low in range(0, len(data), 32)]
    return f"static const uint8_t {name}[{len(data)}] = {{\n" + ",\n".join(f"    {line}" for line in lines) + "\n};\n"
