"""Layer descriptions: what is computed, without weights and without a tile.

A *layer* (``AttentionLayer``, ``DecoderLayer``, ...) is fixed by the model; a ``Workload`` adds what a request fixes:
phase, number of sequences, new tokens and cached tokens. Everything later in the compiler reads only these.

One vocabulary of sizes, used by every module of this floor:

==============  ================================================================================
``rows``        batch * tokens: the m of every projection
``tokens``      new tokens per sequence
``context``     tokens per sequence that are in the KV cache before the new ones
``keys``        context + tokens: what the last new token can see
``pairs``       (query, key) pairs of one sequence and one head that the mask leaves
==============  ================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..rtl.spec.errors import WorkloadError
from .checks import require_bool, require_choice, require_int, require_positive
from .feed_forward import MlpLayer, MoELayer
from .masks import KeyMask
from .norm_layer import NormLayer
from .rotary import RopeScaling

QkNorm = Literal["none", "head", "full", "unweighted"]
Phase = Literal["prefill", "decode"]
Mask = Literal["causal", "none"]
Block = Literal["pre", "post", "sandwich", "parallel"]
"""How the parts of a decoder layer are put together (`DecoderLayer`)."""

DEFAULT_DECODE_CONTEXT = 1024
"""Cached tokens of a decode workload that does not give any: one thousand is a short chat."""

MAX_TOKENS = 1 << 24
"""Bound on tokens, context and batch, so that a slip of the keyboard is an error and not a hang."""


@dataclass(frozen=True)
class Temperature:
    """Of attention: q at position p is times ``1 + scale * ln(1 + floor((p + 1) / floor))``."""

    scale: float
    floor: float

    def __post_init__(self) -> None:
        for field in ("scale", "floor"):
            require_positive("attention temperature", field, getattr(self, field))


@dataclass(frozen=True, kw_only=True)
class AttentionLayer:
    """Grouped-query attention with rotary embedding: QKV projections, softmax core, output projection.

    ``x (rows, hidden) -> q (rows, heads * head_dim), k and v (rows, kv_heads * head_dim) -> (rows, hidden)``.
    Query head h reads key/value head ``h // (heads // kv_heads)``. ``kv_heads == heads`` is MHA, 1 is MQA.

    ``qk_norm``: ``"head"``: RMS norm of every q and k head over head_dim, before the rotary embedding
    (Qwen3); ``"unweighted"``: the same without weights (Llama 4, behind the rotation, which it commutes with);
    ``"full"``: over the whole projection width, before the split into heads (OLMoE).
    ``softmax_scale`` multiplies q.k; None means ``head_dim ** -0.5``. ``rope_scaling`` changes the rotary
    frequencies of base ``rope_theta`` (`rotary`); None leaves them plain. ``qkv_bias``: vectors are added to q, k and
    v; ``output_bias``: one to the result.

    ``rotary_dim``: only the first so many features of a head are rotated, none for 0, all for None; feature i with
    i + rotary_dim / 2, or ``rope_interleaved`` with its neighbour. ``norm_offset``: added to the weights of the
    QK-norm (1 in Gemma). ``sinks``: each query head has a score that belongs to no key.
    ``window``: a query sees its own and the ``window - 1`` keys before; ``chunk``: those of its own chunk of positions
    (`masks`); None: all before. ``logit_cap``: scores s become ``cap * tanh(s / cap)``. ``temperature``: q of late
    tokens is longer.
    """

    model: str = "custom"
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qk_norm: QkNorm = "none"
    norm_eps: float = 1e-6
    softmax_scale: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    rotary_dim: int | None = None
    rope_interleaved: bool = False
    norm_offset: float = 0.0
    sinks: bool = False
    window: int | None = None
    chunk: int | None = None
    logit_cap: float | None = None
    temperature: Temperature | None = None

    def __post_init__(self) -> None:
        where = f"attention layer of {self.model}"
        for field in ("hidden", "heads", "kv_heads", "head_dim"):
            require_int(where, field, getattr(self, field), 1, 1 << 20)
        if self.heads % self.kv_heads:
            raise WorkloadError(
                f"{where}: kv_heads: expected a divisor of heads = {self.heads}, got {self.kv_heads}"
            )
        if self.head_dim % 2:
            raise WorkloadError(
                f"{where}: head_dim: expected an even number (rotary pairs), got {self.head_dim}"
            )
        for field in ("window", "chunk"):
            if getattr(self, field) is not None:
                require_int(where, field, getattr(self, field), 1, MAX_TOKENS)
        if self.window is not None and self.chunk is not None:
            raise WorkloadError(f"{where}: chunk: expected None beside window = {self.window}, got {self.chunk}")
        require_choice(where, "qk_norm", self.qk_norm, get_args(QkNorm))
        for field in ("rope_theta", "norm_eps"):
            require_positive(where, field, getattr(self, field))
        if self.rope_scaling is not None:
            if not isinstance(self.rope_scaling, RopeScaling):
                found = repr(self.rope_scaling)[:60]
                raise WorkloadError(f"{where}: rope_scaling: expected a RopeScaling or None, got {found}")
            if problems := self.rope_scaling.layer_problems(self.rotated, self.rope_theta):
                raise WorkloadError(f"{where}: rope_scaling: {'; '.join(problems)}")
        if self.rotary_dim is not None:
            require_int(where, "rotary_dim", self.rotary_dim, 0, self.head_dim)
        if self.rotated % 2:
            raise WorkloadError(f"{where}: rotary_dim: expected an even number (rotary pairs), got {self.rotary_dim}")
        for field in ("qkv_bias", "output_bias", "rope_interleaved", "sinks"):
            require_bool(where, field, getattr(self, field))
        if self.softmax_scale is None:
            object.__setattr__(self, "softmax_scale", self.head_dim**-0.5)
        require_positive(where, "softmax_scale", self.softmax_scale)
        if self.logit_cap is not None:
            require_positive(where, "logit_cap", self.logit_cap)

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "attention"

    @property
    def scale(self) -> float:
        """The factor on q.k (``softmax_scale`` with its default filled in)."""
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    @property
    def rotated(self) -> int:
        """Features of a head that the rotary embedding rotates."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    @property
    def q_width(self) -> int:
        """Columns of q: heads * head_dim (not always ``hidden``: Qwen3-30B has 4,096 of 2,048)."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of k, and of v: kv_heads * head_dim."""
        return self.kv_heads * self.head_dim

    def cut(self, most: Mapping[str, int]) -> AttentionLayer:
        """The same layer with sizes of at most ``most``, by name; ``group``: query heads per key/value head."""
        kv_heads, head_dim = min(self.kv_heads, most["kv_heads"]), min(self.head_dim, most["head_dim"])
        rotated = self.rotated * head_dim // self.head_dim // 2 * 2
        return replace(self, hidden=min(self.hidden, most["hidden"]), kv_heads=kv_heads, softmax_scale=None,
                       heads=kv_heads * min(self.group, most["group"]), head_dim=head_dim,
                       rotary_dim=None if self.rotary_dim is None else rotated,
                       rope_scaling=self.rope_scaling and self.rope_scaling.cut(rotated))

    @property
    def weights(self) -> int:
        """Elements of wq, wk, wv and wo (norm vectors and biases not counted)."""
        return self.hidden * (2 * self.q_width + 2 * self.kv_width)


@dataclass(frozen=True, kw_only=True)
class DecoderLayer:
    """A whole decoder layer of attention a and feed-forward layer f, with norms n, each with weights of its own, and r,
    the ``residual_scale``. ``block``:

    ============  ===========================================================
    ``pre``       ``m = x + r a(n(x))``, ``y = m + r f(n(m))``: most models
    ``post``      ``m = x + r n(a(x))``, ``y = m + r n(f(m))``: OLMo-2
    ``sandwich``  ``m = x + r n(a(n(x)))``, ``y = m + r n(f(n(m)))``: Gemma 2
    ``parallel``  ``h = n(x)``, ``y = x + r a(h) + r f(h)``: Command-R
    ============  ===========================================================

    ``norm_...``: of all norms, as in `NormLayer`."""

    attention: AttentionLayer
    feed_forward: MlpLayer | MoELayer
    block: Block = "pre"
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    norm_centered: bool = False
    norm_bias: bool = False
    residual_scale: float = 1.0

    def __post_init__(self) -> None:
        where = f"decoder layer of {self.model}"
        if not isinstance(self.attention, AttentionLayer) or not isinstance(self.feed_forward, MlpLayer | MoELayer):
            raise WorkloadError(f"{where}: expected an AttentionLayer and an MlpLayer or MoELayer")
        if self.attention.hidden != self.feed_forward.hidden:
            raise WorkloadError(f"{where}: feed_forward: expected hidden = {self.attention.hidden}, that of attention, "
                                f"got {self.feed_forward.hidden}")
        require_choice(where, "block", self.block, get_args(Block))
        require_positive(where, "residual_scale", self.residual_scale)
        _ = self.norm  # raises for what is wrong with it

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "decoder"

    @property
    def model(self) -> str:
        return self.attention.model

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.attention.hidden

    @property
    def norm(self) -> NormLayer:
        """Any of the norms; they differ in their weights only."""
        return NormLayer(model=self.model, hidden=self.hidden, eps=self.norm_eps, offset=self.norm_offset,
                         centered=self.norm_centered, bias=self.norm_bias)

    def cut(self, most: Mapping[str, int]) -> DecoderLayer:
        """The same layer with sizes of at most ``most``, by name."""
        return replace(self, attention=self.attention.cut(most), feed_forward=self.feed_forward.cut(most))

    @property
    def weights(self) -> int:
        """Elements of all matrices (norm vectors not counted)."""
        return self.attention.weights + self.feed_forward.weights


@dataclass(frozen=True, kw_only=True)
class EmbeddingLayer:
    """The rows of a table that tokens choose: ``scale * table[id]``, FP32."""

    model: str = "custom"
    hidden: int
    vocab: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        for field in ("hidden", "vocab"):
            require_int(f"embedding of {self.model}", field, getattr(self, field), 1, 1 << 20)
        require_positive(f"embedding of {self.model}", "scale", self.scale)

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "embedding"

    def cut(self, most: Mapping[str, int]) -> EmbeddingLayer:
        """The same layer with sizes of at most ``most``, by name."""
        return replace(self, hidden=min(self.hidden, most["hidden"]), vocab=min(self.vocab, most["hidden"]))

    @property
    def weights(self) -> int:
        """Elements of the table."""
        return self.vocab * self.hidden


@dataclass(frozen=True, kw_only=True)
class HeadLayer:
    """The final norm and the logits: z = ``scale * (norm(x) W^T)``, W (vocab, hidden), or with a ``logit_cap``
    ``cap * tanh(z / cap)``. tied: W is the embedding's table. bias: a vector is added to the product."""

    norm: NormLayer
    vocab: int
    scale: float = 1.0
    tied: bool = False
    bias: bool = False
    logit_cap: float | None = None

    def __post_init__(self) -> None:
        require_int(f"head of {self.model}", "vocab", self.vocab, 1, 1 << 20)
        require_positive(f"head of {self.model}", "scale", self.scale)
        if self.logit_cap is not None:
            require_positive(f"head of {self.model}", "logit_cap", self.logit_cap)

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "head"

    @property
    def model(self) -> str:
        return self.norm.model

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.norm.hidden

    def cut(self, most: Mapping[str, int]) -> HeadLayer:
        """The same layer with sizes of at most ``most``, by name."""
        return replace(self, norm=self.norm.cut(most), vocab=min(self.vocab, most["hidden"]))

    @property
    def weights(self) -> int:
        """Elements of W (the norm's vector not counted)."""
        return self.vocab * self.hidden


Layer = AttentionLayer | MoELayer | MlpLayer | NormLayer | DecoderLayer | EmbeddingLayer | HeadLayer

LAYER_KINDS = ("attention", "moe", "mlp", "norm", "decoder", "embedding", "head")
"""``kind`` of every layer."""

ATTENDING, ROUTED = ("attention", "decoder"), ("moe", "decoder")
"""Layers with attention; those that may have experts."""

OUTER = ("embedding", "head")
"""Layers that are part of no decoder layer."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One layer and one request.

    ``batch`` sequences of ``tokens`` new tokens each, after ``context`` cached ones. Rows of every activation
    are ordered by sequence, then by token. ``context`` defaults to 0 for prefill and to
    ``DEFAULT_DECODE_CONTEXT`` for decode; a prefill with a context is a later chunk of a long prompt. Decode
    usually has 1 token (more for speculative decode). The mask concerns attention only: ``"causal"`` lets
    token i of a sequence see the whole context and new tokens up to i; ``"none"`` lets every token see every
    key of its sequence.
    """

    layer: Layer
    phase: Phase = "prefill"
    tokens: int
    context: int | None = None
    batch: int = 1
    mask: Mask = "causal"

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise WorkloadError(f"workload: layer: expected an AttentionLayer, MoELayer, MlpLayer, NormLayer, "
                                f"DecoderLayer, EmbeddingLayer or HeadLayer, got {self.layer!r}")
        where = f"{self.layer.kind} workload of {self.layer.model}"
        require_choice(where, "phase", self.phase, get_args(Phase))
        require_choice(where, "mask", self.mask, get_args(Mask))
        if self.context is None:
            cached = DEFAULT_DECODE_CONTEXT if self.phase == "decode" and self.attends else 0
            object.__setattr__(self, "context", cached)
        require_int(where, "tokens", self.tokens, 1, MAX_TOKENS)
        require_int(where, "batch", self.batch, 1, MAX_TOKENS)
        require_int(where, "context", self.context, 0, MAX_TOKENS)
        if self.mask != "causal" and (self._reach["window"] or self._reach["chunk"]):
            kind = "window" if self._reach["window"] else "chunk"
            raise WorkloadError(f"{where}: mask: expected causal for a layer with {kind} = {self._reach[kind]}, got "
                                f"{self.mask}")
        if self.rows > MAX_TOKENS:
            raise WorkloadError(f"{where}: batch * tokens: expected at most {MAX_TOKENS}, got {self.rows}")

    @property
    def attention(self) -> AttentionLayer:
        """The layer, when it is attention; WorkloadError otherwise."""
        if not isinstance(self.layer, AttentionLayer):
            raise WorkloadError(f"workload: layer: expected an attention layer, got {self.layer.kind}")
        return self.layer

    @property
    def moe(self) -> MoELayer:
        """The layer, when it is an MoE; WorkloadError otherwise."""
        if not isinstance(self.layer, MoELayer):
            raise WorkloadError(f"workload: layer: expected an MoE layer, got {self.layer.kind}")
        return self.layer

    @property
    def attends(self) -> bool:
        """Does the layer have attention, and so a mask and a context?"""
        return isinstance(self.layer, AttentionLayer | DecoderLayer)

    def part(self, layer: Layer) -> Workload:
        """The same request for a part of the layer."""
        part = replace(self, layer=layer)
        return part if part.attends else replace(part, context=0)

    @property
    def rows(self) -> int:
        """New tokens of all sequences together."""
        return self.batch * self.tokens

    @property
    def cached(self) -> int:
        """``context`` as an int (the field admits None only in the constructor)."""
        return self.context or 0

    @property
    def keys(self) -> int:
        """Keys per sequence: cached and new."""
        return self.cached + self.tokens

    @property
    def key_mask(self) -> KeyMask:
        """Which keys each new token sees."""
        return KeyMask(keys=self.keys, causal=self.mask == "causal", **self._reach)

    @property
    def _reach(self) -> dict[str, int | None]:
        """How far back attention looks: window and chunk of its layer."""
        layer = self.layer.attention if isinstance(self.layer, DecoderLayer) else self.layer
        return {name: getattr(layer, name, None) for name in ("window", "chunk")}

    @property
    def pairs(self) -> int:
        """(query, key) pairs left by the mask, for one sequence and one head."""
        return self.key_mask.pairs(self.cached, self.tokens)
