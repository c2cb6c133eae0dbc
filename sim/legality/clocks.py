"""Semaphores, and what each unit knows to be over by the tokens that it has taken: its clock (`verifier`)."""

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Unit
from ..induction import UNIT, Indices
from ..program import Program

COUNTER_MAX = 255
"""Largest value of a token counter."""

WR = 4
"""Entries 0..3 of a clock are the rd tokens of the four units, entries 4..7 their wr tokens."""

START = (-1,) * 8

OTHERS = np.arange(4)[:, None] != np.arange(8) % 4
"""(unit, entry): whether the entry is another unit's."""


def latest(clocks: Indices, last: Indices, kept: list[tuple[int, int]],
            compared: Mapping[int, Indices]) -> Indices:
    """(n, 8): of each entry of the clocks, the latest instruction up to it that it may be compared with, or -1.

    last: (banks, 8) of them by entry; kept: (instruction, entry); compared: by entry, sorted, -1 first.
    """
    entries = UNIT * np.arange(8)
    more = np.array([i + UNIT * entry for i, entry in kept], np.int64)
    things = np.sort(np.concatenate([entries - 1, (last + entries).reshape(-1), more]))
    found = things[np.searchsorted(things, clocks + entries, "right") - 1] - entries
    for entry, instructions in compared.items():
        column = clocks[:, entry]
        np.maximum(found[:, entry], instructions[np.searchsorted(instructions, column, "right") - 1],
                   out=found[:, entry])
    return found


class Tokens:
    """Semaphores and clocks."""

    def __init__(self, program: Program, consumers: tuple[Unit, ...]) -> None:
        """Without DISPATCH among the consumers, what SYNCs tell the units is not used."""
        self.program, self.consumers = program, consumers
        self.clocks: list[tuple[int, ...]] = [START] * 4
        self.dispatched = START
        # channels[kind + producer][consumer]: (producer's index, its clock) of each token not yet taken.
        self.channels: list[list[deque]] = [[deque() for _ in Unit] for _ in range(8)]
        depth = program.config.queue_depth
        self.limits = [COUNTER_MAX - depth] * 4 + [COUNTER_MAX]
        self.depth = depth

    def issue(self, index: int, instruction: Instruction, unit: int) -> tuple[int, ...]:
        """Take and give the tokens of the next instruction; returns its clock."""
        dispatched = self.dispatched
        clock = dispatched if unit == Unit.DISPATCH else self.clocks[unit]
        if clock is not dispatched and dispatched is not START:
            clock = tuple(map(max, clock, dispatched))
        if (instruction.wait_rd or instruction.wait_wr) and unit in self.consumers:
            clock = self._take(instruction, unit, clock)
        if unit == Unit.DISPATCH:
            self.dispatched = clock
            return clock
        self.clocks[unit] = clock
        signals = instruction.signal_rd | instruction.signal_wr
        if signals:
            self._give(index, instruction, unit, clock)
        return clock

    def _take(self, instruction: Instruction, unit: int, clock: tuple[int, ...]) -> tuple[int, ...]:
        if not (0 <= instruction.wait_rd < 16 and 0 <= instruction.wait_wr < 16):
            raise ProgramError(f"wait_rd = {instruction.wait_rd}, wait_wr = {instruction.wait_wr}, allowed 0..15")
        waits = instruction.wait_rd | instruction.wait_wr << 4
        for entry in range(8):
            if not waits >> entry & 1:
                continue
            channel = self.channels[entry][unit]
            if not channel:
                raise ProgramError(f"deadlock: waits for {_channel(entry, unit)}, but no earlier instruction gives one "
                                   "that is not taken already")
            producer, learnt = channel.popleft()
            clock = tuple(map(max, clock, _learn(learnt, entry, producer)))
        return clock

    def _give(self, index: int, instruction: Instruction, unit: int, clock: tuple[int, ...]) -> None:
        for kind, mask in ((0, instruction.signal_rd), (WR, instruction.signal_wr)):
            if not 0 <= mask < 32:
                raise ProgramError(f"signal_rd = {instruction.signal_rd}, signal_wr = {instruction.signal_wr}, "
                                   "allowed 0..31")
            for target in self.consumers:
                if mask >> target & 1:
                    channel = self.channels[kind + unit][target]
                    channel.append((index, clock))
                    if len(channel) > self.limits[target]:
                        raise ProgramError(f"overflow: {len(channel)} of {_channel(kind + unit, target)} are given and "
                                           f"not waited for yet; with queues of {self.depth} the counter holds at most "
                                           f"{self.limits[target]}")

    def state(self, clocks: list[tuple[int, ...]]) -> tuple[tuple, list[int]]:
        """Shape, and the clocks of units and tokens; -1 where a token tells nothing new. Not the dispatcher's."""
        indices = [i for clock in clocks for i in clock]
        lengths = []
        for source, targets in enumerate(self.channels):
            for own, channel in zip(clocks, targets, strict=False):
                lengths.append(len(channel))
                for producer, clock in channel:
                    indices += [i if i > known else -1 for i, known in zip(_learn(clock, source, producer), own,
                                                                           strict=True)]
        return tuple(lengths), indices

    def restore(self, shape: tuple, indices: Iterator[int]) -> None:
        self.clocks = [tuple(islice(indices, 8)) for _ in range(4)]
        for channel, length in zip((c for targets in self.channels for c in targets[:4]), shape, strict=True):
            channel.clear()
            channel.extend((-1, tuple(islice(indices, 8))) for _ in range(length))

    def finish(self) -> None:
        for entry, targets in enumerate(self.channels):
            for target, channel in enumerate(targets):
                if channel:
                    signal = "signal_wr" if entry >= WR else "signal_rd"
                    givers = [i for i, instruction in enumerate(self.program.instructions)
                              if instruction.spec.unit == entry & 3 and getattr(instruction, signal) >> target & 1]
                    raise ProgramError(f"{self.program.describe(givers[-len(channel)])}: surplus token: nothing "
                                       f"waits for {len(channel)} of {_channel(entry, target)}")


def _learn(clock: tuple[int, ...], entry: int, producer: int) -> list[int]:
    """What a token tells: the clock of its producer, and that this one has come so far."""
    learnt = list(clock)
    learnt[entry] = max(learnt[entry], producer)
    learnt[entry & 3] = max(learnt[entry & 3], producer)
    return learnt


def _channel(entry: int, target: int) -> str:
    kind = "wr" if entry >= WR else "rd"
    return f"the {kind} tokens of {Unit(entry & 3).name} for {Unit(target).name}"
