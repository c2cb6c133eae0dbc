"""A comparison as tables of HTML: the same rows and words as on a terminal."""

import html

from ...sim.visual.tables import table
from ..comparison import Comparison
from ..comparison_text import parts


def comparison_html(comparison: Comparison) -> str:
    """A fragment: notes and sentences as paragraphs, rows as tables; equal rows outside the totals are left out."""
    blocks = []
    for title, cells in parts(comparison):
        heading = f"<b>{html.escape(title)}</b>" if cells else html.escape(title)
        blocks.append(f"<p>{heading}</p>" if title else "")
        if cells:
            blocks.append(f'<div class="scroll">{table(cells[0], cells[1:])}</div>')
    return "".join(blocks)
