"""Tokens for the orders that `dependencies` found, put into the instructions."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..rtl.spec.isa import HEADER
from ..sim.instructions import Instructions, numbered, with_addresses
from .dependencies import RD, Channel

TOKEN_LIMIT = 200
"""Tokens of one channel that may be on the way at once; the counters hold 255, a queue may add its depth."""

Pairs = NDArray[np.int64]
"""(tokens, 2): producer and consumer of each token of a channel, both strictly increasing."""


def limit_outstanding(pairs: Pairs, limit: int = TOKEN_LIMIT) -> Pairs:
    """Tokens of one channel with at most ``limit`` given before the first of them is taken.

    Where there are more, a consumer waits for a later producer (still before it in program order), which
    covers the ones in between.
    """
    if not (pairs[limit:, 0] < pairs[:-limit, 1]).any():
        return pairs
    found, kept, position = pairs.tolist(), [], 0
    while position < len(found):
        producer, consumer = found[position]
        last = position
        if position + limit < len(found) and found[position + limit][0] < consumer:
            while last + 1 < len(found) and found[last + 1][0] < consumer:
                last += 1
            producer = found[last][0]
        kept.append((producer, consumer))
        position = last + 1
    return np.array(kept, np.int64)


_MASKS = ("wait_rd", "wait_wr", "signal_rd", "signal_wr")
_MASK_BITS = max(f.bits for f in HEADER)


def with_tokens(instructions: Instructions, pairs: Mapping[Channel, Pairs]) -> Instructions:
    """The instructions with the waits and signals of all channels."""
    masks = np.zeros(len(instructions), np.int64)
    for (source, kind, target), found in pairs.items():
        wait, signal = (0, 2) if kind == RD else (1, 3)
        producers, consumers = limit_outstanding(found).T
        masks[producers] |= 1 << (signal * _MASK_BITS + target)
        masks[consumers] |= 1 << (wait * _MASK_BITS + source)
    masked = numbered(masks)
    form = numbered(instructions.form, masked)
    firsts = np.full(int(form.max(initial=-1)) + 1, -1, np.int64)
    firsts[form[::-1]] = np.arange(len(form))[::-1]
    order = np.argsort(firsts)  # forms in the order in which they first appear
    forms = []
    for index in firsts[order].tolist():
        forms.append(with_addresses(instructions.forms[instructions.form[index]], 0, 0))
        for number, name in enumerate(_MASKS):
            setattr(forms[-1], name, int(masks[index]) >> number * _MASK_BITS & (1 << _MASK_BITS) - 1)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Instructions(forms, place[form].astype(np.int32), instructions.dram_addr, instructions.scale_addr)
