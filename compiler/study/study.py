"""What a study is: a claim, the points that test it, and how the page reads their table.

Every study covers at least three models, three operating points and two tiles. Energies are judged at both ends of the
table's range: a ratio that lies on one side of 1 at either end does not depend on the constants.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..families import FAMILIES
from ..models import ModelConfig, changed_model, load_model
from ..sweep.plan import SweepPlan
from ..sweep.table import Row, SweepTable

MODELS = ("llama-3-8b", "qwen3-30b-a3b", "olmoe-1b-7b")
SMALL_MODELS = ("llama-3-8b", "granite-3.0-1b-a400m", "granite-3.0-3b-a800m")
"""One dense model and two with experts."""
MIXTURES = ("granite-3.0-1b-a400m", "granite-3.0-3b-a800m", "olmoe-1b-7b")
TILES = ("edge", "server")
ENDS = ("energy_low_pj", "energy_pj", "energy_high_pj")

Case = dict[str, object]


def prefill(tokens: int) -> Case:
    return {"phase": "prefill", "tokens": tokens}


def decode(batch: int, context: int | None = None) -> Case:
    """context: None for layers without attention."""
    point: Case = {"phase": "decode", "batch": batch}
    return point if context is None else {**point, "context": context}


POINTS = (prefill(128), decode(16, 1024), decode(1, 1024))
"""The usual operating points of layers with attention."""
FEED_FORWARD_POINTS = (prefill(64), decode(16), decode(1))


@dataclass(frozen=True, kw_only=True)
class Series:
    """The drawing of a page: a bar per row and name. unit: of the values."""

    unit: str
    names: tuple[str, ...]
    rows: list[tuple[str, list[float | None]]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a table says: whether the claim stands, sentences, how far it depends on the energy table's range, a table
    of texts and a drawing."""

    stands: bool
    sentences: list[str]
    energy: str
    head: list[str]
    rows: list[list[str]]
    drawn: Series


@dataclass(frozen=True, kw_only=True)
class Study:
    """claimed: the claim; refuted: what in the table would refute it; points: (keys with values, cases) of a sweep, for
    given models; answer: of a table."""

    name: str
    title: str
    claimed: str
    refuted: str
    models: tuple[str, ...]
    points: Callable[[Sequence[str]], tuple[Mapping[str, Sequence[object]], list[Case]]]
    answer: Callable[[SweepTable], Answer]

    def plan(self, models: Sequence[str] | None = None) -> SweepPlan:
        """The points. models: in place of the study's own."""
        keys, cases = self.points(self.models if models is None else models)
        return SweepPlan(axes=keys, cases=cases, source=f"study {self.name}")


def balanced(model: str) -> Case:
    """The key of a stated load, where the model has experts: their choice is no part of the question."""
    return {"routing": "balanced"} if load_model(model).num_experts else {}


def feed_forward_width(model: ModelConfig) -> tuple[str, int]:
    """The key of the width of a model's feed-forward layer, or of its experts', and the value."""
    if model.num_experts:
        return FAMILIES[model.model_type].width_key, model.expert_width or 0
    return "intermediate_size", model.intermediate_size or 0


def model_of(row: Row) -> ModelConfig:
    """The model that a row was measured with."""
    model = load_model(row["model"])
    return changed_model(model, row["model_set"]) if row.get("model_set") else model


def point_name(row: Row) -> str:
    """The operating point of a row in words."""
    if row["phase"] != "decode":
        return f"prefill of {row['tokens']}"
    context = row.get("context", 1024)
    return f"decode, batch {row['batch']}" + (f", context {context}" if context != 1024 else "")


def good(table: SweepTable) -> list[Row]:
    """Rows with values."""
    return [row for row in table.rows if row["error"] is None]


def span(values: Sequence[float], digits: int = 3) -> str:
    """The smallest and the largest, ``0.512 to 0.938``."""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
