"""A graph to steps, a schedule for them, and their program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError, DoesNotFit, did_you_mean
from ...sim.program import Program
from ..builder import ProgramBuilder
from ..dram import float_output
from ..emitter import Emitter
from ..graph.calibrate import Scales
from ..graph.ir import Graph, Node, Role, Slot
from ..graph.layers import layer_graph
from ..graph.ops.add import Add
from ..graph.ops.embed import Embed
from ..graph.ops.experts import Experts
from ..graph.ops.gate import Activate, Gate
from ..graph.ops.head_linear import HeadLinear
from ..graph.ops.layer_norm import Norm
from ..graph.ops.linear import Linear
from ..graph.ops.rms_norm import RmsNorm
from ..graph.ops.rotary import Rotary
from ..graph.ops.router import Router
from ..graph.ops.share import ScaleRows, Sigmoid
from ..graph.ops.temperature import ScaleTokens
from ..kept_codes import KeptCodes
from ..layers import Workload
from ..numerics import DEFAULT, Numerics
from ..routing import Routing
from ..schedule import KernelSchedule, Schedule
from ..tensors import GraphTensors
from .core import Core
from .embedding import ToEmbedding
from .experts import FromSlots, ToSlots, slots_key
from .gated import ToProduct
from .latent import PerHead, Turned, turned_key
from .ports import Ports, is_core
from .projections import ToHeads, ToRows
from .router import ToWeights
from .rows import ToFormats
from .sparse_mixer import ToMixedWeights
from .steps import Job, Layer, Step
from .values import ToValues


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a layer, in the order of its graph."""

    layer: Layer
    steps: tuple[Step, ...]

    def schedule(self) -> Schedule:
        """A schedule by rule. Raises `DoesNotFit` when no tiling fits."""
        kernels: dict[str, KernelSchedule] = {}
        for step in self.steps:
            kernels |= step.choose()
        order = self._order()
        return Schedule(kernels=kernels, order=order, interleave=order[1:] if self._joined else ())

    @property
    def _joined(self) -> bool:
        """Are there residual sums, and so layers that follow each other? At their seams it costs compile time too."""
        return any(isinstance(step, ToFormats) and step.add is not None for step in self.steps)

    def _order(self) -> tuple[str, ...]:
        """That of the graph, but for steps that are better early."""
        left, order = list(self.steps), []
        while left:
            waiting = {value for step in left for value in step.provides}
            ready = [step for step in left if waiting.isdisjoint(step.reads)]
            order.append(min(ready, key=lambda step: not step.early))
            left.remove(order[-1])
        return tuple(step.name for step in order)

    def check(self, schedule: Schedule) -> None:
        """Raise `CompileError` unless a schedule has this layer's kernels, and an order in which they can run."""
        wanted = {name: cls for step in self.steps for name, cls in step.kernels().items()}
        _check_names("kernels", tuple(schedule.kernels), tuple(wanted))
        for name, cls in wanted.items():
            if not isinstance(schedule[name], cls):
                raise CompileError(f"schedule: {name}: kernel: expected {cls.loop}, got {schedule[name].loop}")
        _check_names("order", schedule.order, tuple(step.name for step in self.steps))
        steps = {step.name: step for step in self.steps}
        _check_interleaved(schedule)
        made = {value: step.name for step in self.steps for value in step.provides}
        for position, name in enumerate(schedule.order):
            for value in steps[name].reads:
                if value in made and made[value] not in schedule.order[:position]:
                    raise CompileError(f"schedule: order: {made[value]} must come before {name}, which reads what it "
                                       f"makes, got {', '.join(schedule.order)}")

    def lay_out(self, builder: ProgramBuilder, schedule: Schedule, scales: Scales,
                tensors: GraphTensors | None = None, kept: KeptCodes | None = None) -> Job:
        """A job whose operands have their places in DRAM."""
        job = Job(emitter=Emitter(builder), schedule=schedule, scales=scales, tensors=tensors, kept=kept)
        for step in self.steps:
            step.ask(job)
        job.lay_out()
        return job

    def program(self, schedule: Schedule, scales: Scales, tensors: GraphTensors | None = None,
                kept: KeptCodes | None = None, hints: bool = True) -> Program:
        """The program; its result is a region of the name of the graph's output, FP32.

        Without ``tensors`` the program has the same instructions and zero data: for timing only. kept: codes of
        experts' weights that need not be made again. hints: an error names values of the schedule that would fit.
        """
        self.check(schedule)
        builder, values = ProgramBuilder(self.layer.config, schedule.interleave), self.layer.graph.values
        job = self.lay_out(builder, schedule, scales, tensors, kept)
        for step in sorted(self.steps, key=lambda step: schedule.order.index(step.name)):
            with builder.phase(step.name):
                try:
                    step.emit(job)
                except DoesNotFit as error:
                    raise DoesNotFit(f"{error}{step.smaller(schedule) if hints else ''}") from None
        out = next(value for value in values.values() if value.role is Role.OUTPUT)
        float_output(builder, out.name, job.memory[self.layer.floats_key(out.name)], *out.shape)
        return builder.finish()


def plan(graph: Graph, config: TileConfig, numerics: Numerics = DEFAULT, routing: Routing | None = None) -> Plan:
    """The steps of a graph. Raises `CompileError` naming a node that no kernel computes."""
    layer = Layer(graph=graph, config=config, numerics=numerics, routing=routing)
    return Plan(layer, tuple(_steps(layer)))


def layer_plan(workload: Workload, config: TileConfig, numerics: Numerics = DEFAULT,
               routing: Routing | None = None) -> Plan:
    """The steps of a workload's layer."""
    return plan(layer_graph(workload), config, numerics, routing)


def choose_schedule(workload: Workload, config: TileConfig, numerics: Numerics = DEFAULT,
                    routing: Routing | None = None) -> Schedule:
    """A schedule by rule for a workload's layer. Raises `CompileError` when no tiling fits."""
    return layer_plan(workload, config, numerics, routing).schedule()


def _check_names(what: str, given: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    for name in given:
        if name not in wanted:
            raise CompileError(f"schedule: {what}: {name} is none of this layer's; allowed: {', '.join(wanted)}"
                               f"{did_you_mean(name, wanted)}")
    for name in wanted:
        if given.count(name) != 1:
            raise CompileError(f"schedule: {what}: expected each of {', '.join(wanted)} once, got "
                               f"{', '.join(given) or 'none'}")


def _check_interleaved(schedule: Schedule) -> None:
    allowed, given = schedule.order[1:], schedule.interleave
    for name in given:
        if name not in allowed or given.count(name) > 1:
            raise CompileError(f"schedule: interleave: {name}: expected each at most once of the steps that follow "
                               f"another one: {', '.join(allowed) or 'none'}{did_you_mean(name, allowed)}")


def _steps(layer: Layer) -> Iterator[Step]:
    """A node's op selects the kernel; nodes that follow it alone become its epilogue."""
    graph, fused = layer.graph, set[str]()
    for node in graph.nodes:
        if node.name in fused:
            continue
        if isinstance(node.op, Linear) and (gate := _gate(graph, node)) is not None:
            gated, up = (next(part for part in graph.nodes if part.output == name) for name in gate.inputs)
            fused |= {gated.name, up.name, gate.name}
            yield ToProduct(layer=layer, name=gate.output, reads=gated.inputs, makes=gate.output, gate=gated, up=up,
                            product=gate)
        elif isinstance(node.op, Linear) and (only := _only_reader(graph, node)) and isinstance(only.op, Activate):
            fused.add(only.name)
            yield ToProduct(layer=layer, name=only.output, reads=node.inputs, makes=only.output, gate=node, up=None,
                            product=only)
        elif isinstance(node.op, Linear):
            step, following = _linear(layer, node)
            plain = isinstance(step, ToRows) and (node.op.cap is None or step.weights is None)
            if (node.op.scale != 1.0 or node.op.cap is not None) and not plain:
                raise CompileError(f"{node.name}: no kernel computes a Linear with a factor or a cap as "
                                   f"{type(step).__name__}")
            fused |= {other.name for other in following}
            yield step
            yield from _quantizer(layer, step)
        elif isinstance(node.op, Embed):
            yield ToEmbedding(layer=layer, name=node.name, reads=node.inputs, makes=node.output, node=node)
        elif is_core(node.op):
            turned = _turned(layer, node)
            yield from turned
            reads = (*node.inputs, *(step.makes for step in turned))
            yield Core(layer=layer, name=node.name, reads=reads, makes=node.output, node=node)
        elif isinstance(node.op, HeadLinear):
            readers = [other for other in graph.consumers(node.output) if is_core(other.op)]
            yield PerHead(layer=layer, name=node.output, reads=node.inputs, makes=node.output, node=node,
                          core=readers[0] if readers else None)
        elif isinstance(node.op, Experts):
            slots = slots_key(node)
            yield ToSlots(layer=layer, name=node.name, reads=node.inputs, makes=slots, node=node)
            branch, makes = _branch(layer, node)
            fused |= {branch.name} if branch else set()
            base = branch.inputs[0] if branch else None
            summed = FromSlots(layer=layer, name=node.name.replace("experts", "combine"), makes=makes, node=node,
                               reads=(slots,) if base is None else (slots, layer.floats_key(base)), base=base)
            yield summed
            yield from _quantizer(layer, summed)
        elif layer.rowwise(node):
            norm = node if isinstance(node.op, Norm) else _norm_of(graph, node)
            fused |= {norm.name} if norm else set()
            yield _rows(layer, node if isinstance(node.op, Add) else None, norm)
        else:
            raise CompileError(f"{node.name}: no kernel computes {type(node.op).__name__} of "
                               f"{' and '.join(node.inputs)} here")


def _linear(layer: Layer, node: Node) -> tuple[Step, list[Node]]:
    """The step of a Linear, which goes by what it makes, and the nodes that are its epilogue."""
    graph, following = layer.graph, []
    reader = _only_reader(graph, node)
    while reader is not None and isinstance(reader.op, RmsNorm | Rotary | ScaleTokens) \
            and reader.inputs[0] == _last(node, following):
        following.append(reader)
        reader = _only_reader(graph, reader)
    makes = _last(node, following)
    reads = tuple(name for part in (node, *following) for name in part.inputs)
    if reader is not None and is_core(reader.op):
        ports = Ports.of(graph, reader)
        if ports.values == makes and isinstance(node.op, Linear) and node.op.turned:
            return ToValues(layer=layer, name=makes, reads=reads, makes=makes, early=True, node=node,
                            core=reader), following
        if makes in (*ports.queries, *ports.keys):
            return ToHeads(layer=layer, name=makes, reads=reads, makes=makes, early=makes in ports.keys,
                           node=node, following=tuple(following), core=reader), following
    if reader is not None and isinstance(reader.op, ScaleRows) and reader.inputs[0] == node.output:
        return ToRows(layer=layer, name=reader.output, reads=(*node.inputs, reader.inputs[1]), makes=reader.output,
                      node=node, weights=reader.inputs[1]), [reader]
    if reader is not None and isinstance(reader.op, Router | Sigmoid) and not following:
        if len(node.inputs) > 2:
            raise CompileError(f"{node.name}: no kernel adds the bias {node.inputs[2]} to a router's logits")
        mixer = isinstance(reader.op, Router) and reader.op.scoring.score == "sparsemixer"
        step = ToMixedWeights if mixer else ToWeights
        return step(layer=layer, name=node.name, reads=reads, makes=reader.output, linear=node,
                         router=reader), [reader]
    return ToRows(layer=layer, name=node.output, reads=node.inputs, makes=node.output, node=node), []


def _turned(layer: Layer, core: Node) -> list[Step]:
    """The step that makes values of keys that are values too."""
    ports = Ports.of(layer.graph, core)
    if not ports.shared:
        return []
    made = next(node for node in layer.graph.nodes if node.output == ports.values)
    name = turned_key(ports.values)
    return [Turned(layer=layer, name=name, reads=(ports.values,), makes=name, early=True, node=made, core=core)]


def _gate(graph: Graph, linear: Node) -> Node | None:
    """The Gate whose sides are this Linear and another one of the same x, read by it alone."""
    gate = _only_reader(graph, linear)
    if gate is None or not isinstance(gate.op, Gate):
        return None
    sides = [node for node in graph.nodes if node.output in gate.inputs]
    alike = len(sides) == 2 and sides[0].op == sides[1].op and all(
        isinstance(node.op, Linear) and _only_reader(graph, node) is gate for node in sides)
    return gate if alike and sides[0].inputs[0] == sides[1].inputs[0] else None


def _norm_of(graph: Graph, add: Node) -> Node | None:
    """The norm that reads a sum, if there is one and it alone quantizes it."""
    norms = [node for node in graph.consumers(add.output) if isinstance(node.op, Norm)]
    codes = [node for node in graph.consumers(add.output) if Slot.FP32 not in node.op.slots]
    return norms[0] if len(norms) == 1 and not codes else None


def _branch(layer: Layer, experts: Node) -> tuple[Node | None, str]:
    """The Add of what a dense branch makes, in FP32 rows, to what experts make, if that can be part of their sum; and
    what the sum makes."""
    add = _only_reader(layer.graph, experts)
    if add is None or not isinstance(add.op, Add) or add.op.scale != 1 or layer.quantized(add.output):
        return None, experts.output
    other = next((node for node in layer.graph.nodes if node.output == add.inputs[0]), None)
    beside = other is not None and isinstance(other.op, Linear | ScaleRows) and not layer.quantized(other.output)
    return (add, add.output) if beside and add.inputs[1] == experts.output else (None, experts.output)


def _rows(layer: Layer, add: Node | None, norm: Node | None) -> Step:
    """The step of a sum, a norm, or a norm of a sum."""
    parts = [part for part in (add, norm) if part is not None]
    makes, inside = parts[-1].output, tuple(part.output for part in parts[:-1])
    reads = tuple(name for part in parts for name in part.inputs if name not in inside)
    return ToFormats(layer=layer, name=makes, reads=reads, makes=makes, also=inside, add=add, norm=norm)


def _quantizer(layer: Layer, step: Step) -> Iterator[Step]:
    """The step that makes codes of FP32 rows, where something reads them so."""
    if layer.requantized(step.makes):
        yield ToFormats(layer=layer, name=f"{step.makes} codes", reads=step.provides, makes=step.makes)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    readers: list[Node] = graph.consumers(node.output)
    return readers[0] if len(readers) == 1 else None


def _last(node: Node, following: list[Node]) -> str:
    return (following[-1] if following else node).output
