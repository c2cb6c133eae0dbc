"""sim.host.bus: coroutines on a bus that blocks, and error responses."""

import asyncio

import pytest

from tilescore.rtl.spec.errors import SimulationError
from tilescore.sim.host.bus import response_error, run_now


async def double(value: int) -> int:
    return 2 * value


async def twice(value: int) -> int:
    return await double(await double(value))


def test_run_now_returns_and_raises_what_the_coroutine_does() -> None:
    async def fails() -> None:
        await double(1)
        raise KeyError("mine")

    assert run_now(twice(3)) == 12
    with pytest.raises(KeyError, match="mine"):
        run_now(fails())


def test_run_now_does_not_wait() -> None:
    with pytest.raises(SimulationError, match="waits for a test bench"):
        run_now(asyncio.sleep(0))


@pytest.mark.parametrize(("response", "name"), [(1, "EXOKAY"), (2, "SLVERR"), (3, "DECERR")])
def test_response_error_names_register_and_response(response: int, name: str) -> None:
    assert str(response_error("read", 0x34, response)) == f"read of the register at 0x034: error response {name}"
