"""Changes of a copy of the tree that add what does not exist yet: at most three product files each (docs/extending.md).

An edit replaces a text that is there once, so that other changes of the same file do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PRODUCT_FILES = 3
"""At most."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """edits: {product file: {text: what replaces it}}; files: new ones. test: of its own, in `own`."""

    test: str
    edits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def touched(self) -> list[str]:
        return [*self.edits, *self.files]

    def apply(self, tree: Path) -> None:
        """Raises `ValueError` unless every place is there once."""
        for name, places in self.edits.items():
            text = (tree / name).read_text(encoding="utf-8")
            for old, new in places.items():
                if text.count(old) != 1:
                    raise ValueError(f"{name}: expected {old!r} once, found {text.count(old)}")
                text = text.replace(old, new)
            (tree / name).write_text(text, encoding="utf-8")
        for name, text in self.files.items():
            if (tree / name).exists():
                raise ValueError(f"{name}: is there already")
            (tree / name).write_text(text, encoding="utf-8")


ACTIVATION = Change(test="activation.py", edits={
    "compiler/activation_names.py": {
        'ACTIVATIONS = ("silu", ': 'ACTIVATIONS = ("quick_gelu", "silu", ',
        'HUGGING_FACE = {"silu": "silu", ': 'HUGGING_FACE = {"quick_gelu": "quick_gelu", "silu": "silu", '},
    "compiler/graph/ops/gate.py": {
        '    "silu": silu, "sigmoid": sigmoid, ':
            '    "quick_gelu": lambda x: x * sigmoid(1.702 * x), "silu": silu, "sigmoid": sigmoid, '},
    "compiler/tiles/activations.py": {
        '    "silu": lambda x, own, factor: ':
            '    "quick_gelu": lambda x, own, factor: [\n'
            '        Assign(to=own, value=silu(x * (1.702 * factor)), label="silu"),\n'
            '        Assign(to=own, value=own, scale=1 / 1.702, label="quick gelu")],\n'
            '    "silu": lambda x, own, factor: '}})

FAMILY = Change(test="family.py", edits={"compiler/families.py": {
    'FAMILIES = {\n':
        'FAMILIES = {\n    "arcee": Family(rope_theta=1e4, biases="all", activation="relu2", gated=False, '
        'mlp_bias_key="mlp_bias"),\n'}})

SCORING = Change(test="scoring.py", edits={
    "compiler/scoring.py": {'Score = Literal["softmax", ': 'Score = Literal["squared_sigmoid", "softmax", '},
    "compiler/scores.py": {
        '    if scoring.score == "sigmoid":\n':
            '    if scoring.score == "squared_sigmoid":\n        return np.exp(-2 * np.logaddexp(0.0, -exact))\n'
            '    if scoring.score == "sigmoid":\n'},
    "compiler/lowering/router.py": {
        '    def _statistics(self) -> tuple[str, ...]:\n':
            '    def _statistics(self) -> tuple[str, ...]:\n        if self.scoring.score == "squared_sigmoid":\n'
            '            return ()\n',
        '        """Of the logits on the tile: a softmax has exponentials of base 2."""\n':
            '        """Of the logits on the tile: a softmax has exponentials of base 2."""\n'
            '        if self.scoring.score == "squared_sigmoid":\n            return 1.0\n',
        '        if scoring.score == "sigmoid" and not self._normalizes:\n':
            '        if scoring.score == "squared_sigmoid":\n'
            '            if self._normalizes:\n'
            '                raise CompileError(f"{self.name}: squared sigmoids are not normalized")\n'
            '            of_all(sigmoid(logits), "sigmoids")\n'
            '            of_all(own * own, "combine weights", scale=scale)\n'
            '            return\n'
            '        if scoring.score == "sigmoid" and not self._normalizes:\n'}})

_OP = '''"""Rows times a learnt gain per feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class LayerScale(Op):
    """x (rows, n), gain (n,) -> x * gain (LayerScale, arXiv 2103.17239)."""

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, x: Shape, gain: Shape) -> Shape:
        if gain != x[1:]:
            raise WorkloadError(f"layer scale: a gain {gain} does not fit x {x}")
        return x

    def evaluate(self, walk: Walk, x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x * gain.astype(np.float64)

    def vector_elements(self, x: Shape, gain: Shape) -> int:
        return x[0] * x[1]
'''

_STEP = '''"""LayerScale nodes: FP32 rows, a column tile at a time, times the gains of its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from ..dram import Matrix, float_matrix
from ..graph.ir import Node
from ..schedule import KernelSchedule, RowwiseSchedule, Schedule
from ..tiles.buffers import Buffer, Memory, fits, place
from ..tiles.expr import Assign, Col, Elem, Shape
from .steps import Job, Stage, Step


@dataclass(kw_only=True, eq=False)
class ToScaled(Step):
    """node: the LayerScale. Steps of ``m_tile`` rows; n_tiles is 1."""

    node: Node

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: RowwiseSchedule}

    def buffers(self, schedule: RowwiseSchedule) -> list[Buffer]:
        return [Buffer(name="rows", memory=Memory.ACC, sizes=(schedule.m_tile,), least=2, most=2, few=1, keys="m_tile"),
                Buffer(name="gains", memory=Memory.STATISTICS, sizes=(1,), least=2, most=2, few=1)]

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        return place(self.buffers(schedule[self.name]), self.layer.config, self.name)

    def choose(self) -> dict[str, KernelSchedule]:
        rows = self.layer.shape(self.makes)[0]
        found = (RowwiseSchedule(m_tile=m, n_tiles=1) for m in range(min(rows, 64), 0, -1))
        config = self.layer.config
        return {self.name: next((s for s in found if fits(self.buffers(s), config, packed=True)),
                                RowwiseSchedule(m_tile=1, n_tiles=1))}

    def ask(self, job: Job) -> None:
        layer, gain, cols = self.layer, self.node.inputs[1], self.layer.config.cols
        columns = layer.shape(self.makes)[1]
        tiles = -(-columns // cols)

        def fill() -> np.ndarray:
            values = np.asarray(getattr(job.tensors, gain), np.float32)
            return np.pad(values, (0, tiles * cols - columns)).reshape(tiles, cols)

        job.ask(Stage.VECTORS, gain, lambda builder: float_matrix(
            builder, gain, tiles, cols, fill if job.tensors else None))
        job.ask(Stage.RESULTS, layer.floats_key(self.makes), lambda builder: float_matrix(
            builder, layer.floats_key(self.makes), layer.shape(self.makes)[0], layer.columns(self.makes)))

    def emit(self, job: Job) -> None:
        layer, emitter, places = self.layer, job.emitter, self.place(job.schedule)
        source: Matrix = job.memory[layer.floats_key(self.node.inputs[0])]
        target: Matrix = job.memory[layer.floats_key(self.makes)]
        gains, (rows, columns), cols = job.memory[self.node.inputs[1]], layer.shape(self.makes), layer.config.cols
        turns, words = cycle(places["rows"]), cycle(places["gains"])
        for tile in range(-(-columns // cols)):
            word, size = next(words), 4 * min(cols, columns - tile * cols)
            emitter.load_rows(gains, first_row=tile, rows=1, addr=word, label="gains")
            for m0 in range(0, rows, job.schedule[self.name].m_tile):
                count, addr = min(job.schedule[self.name].m_tile, rows - m0), next(turns)
                place = {"first_row": m0, "rows": count, "first_byte": 4 * tile * cols, "row_bytes": size,
                         "addr": addr, "pitch": count}
                emitter.load_rows(source, **place, label="rows")
                emitter.compute(Shape(rows=count), Assign(to=Elem(addr), value=Elem(addr) * Col(word), label="gain"))
                emitter.store_acc(target, **place, label="store")
'''

OP = Change(test="op.py", files={"compiler/graph/ops/layer_scale.py": _OP, "compiler/lowering/layer_scale.py": _STEP},
            edits={"compiler/lowering/plan.py": {
                "from ..graph.ops.linear import Linear\n":
                    "from ..graph.ops.layer_scale import LayerScale\nfrom ..graph.ops.linear import Linear\n",
                "from .latent import PerHead": "from .layer_scale import ToScaled\nfrom .latent import PerHead",
                "        elif isinstance(node.op, Embed):\n":
                    "        elif isinstance(node.op, LayerScale):\n"
                    "            yield ToScaled(layer=layer, name=node.name, reads=node.inputs, makes=node.output,\n"
                    "                           node=node)\n"
                    "        elif isinstance(node.op, Embed):\n"}})

CHANGES = {"activation": ACTIVATION, "family": FAMILY, "op": OP, "scoring": SCORING}
