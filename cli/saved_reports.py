"""Reports that `run --out` has written, for commands that compare with them."""

from pathlib import Path

from ..compiler.provenance import check_report
from ..rtl.spec.errors import ConfigError, WorkloadError
from ..sim.lib.json_file import read_json


def saved_report(path: Path, layer: str | None) -> dict | None:
    """The report of one layer in a report.json or its folder; None when the file is a schedule, also an old one."""
    if path.suffix == ".toml":
        return None
    file = path / "report.json" if path.is_dir() else path
    values = read_json(file, ConfigError)
    if isinstance(values, dict) and "kind" in values and not path.is_dir():
        return None
    layers = values.get("layers") if isinstance(values, dict) and "layers" in values else [values]
    if not isinstance(layers, list) or not layers:
        raise ConfigError(f"{file}: layers: expected a list of reports, got {str(layers)[:60]}")
    for report in layers:
        check_report(report, str(file))
    chosen = [report for report in layers if layer in (None, report["layer"])]
    if len(chosen) != 1:
        names = ", ".join(report["layer"] for report in layers)
        raise WorkloadError(f"{file}: has the layers {names}; choose one with --layer" if len(chosen) > 1 else
                            f"{file}: --layer {layer}: not in it; allowed: {names}")
    return chosen[0]
