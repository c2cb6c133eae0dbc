"""The site: pages made from the sources when MkDocs builds it, and links that lead out of docs/.

`mkdocs.yml` names this file as a hook. Three kinds of pages are added to those in docs/: the command line
(`reference/cli.md`, from the parser), the Python API (`reference/api.md`, from docstrings), and Markdown files beside
docs/ that pages link to. Decisions, benchmarks and what is generated are not listed in the navigation one by one.
"""

import argparse
import inspect
import re
from pathlib import Path, PurePosixPath
from typing import Any

import tilescore
from tilescore.cli.parser import parser

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"CHANGELOG.md": "changes.md", "README.md": "readme.md", "examples/README.md": "examples.md",
           **{f"benchmarks/{path.name}": f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.md")}}
"""{Markdown file beside docs/: where it stands in the site}."""

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: the pages of the site."""
    from mkdocs.structure.files import File, InclusionLevel

    made = {"reference/cli.md": cli_page(), "reference/api.md": api_page()}
    made |= {there: (ROOT / here).read_text(encoding="utf-8") for here, there in OUTSIDE.items()}
    for name, text in made.items():
        file = File.generated(config, name, content=text)
        if name not in ("reference/cli.md", "reference/api.md", "changes.md"):
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    for file in files:
        if file.src_uri.startswith("decisions/0"):
            file.inclusion = InclusionLevel.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs: the text of a page, before it is rendered."""
    return with_site_links(markdown, page.file.src_uri)


def with_site_links(markdown: str, page: str) -> str:
    """Links of the page at ``page`` as they must be in the site: to where a file beside docs/ stands there, and as
    plain text where it does not."""
    here = next((PurePosixPath(old) for old, new in OUTSIDE.items() if new == page), PurePosixPath("docs") / page)

    def changed(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        parts: list[str] = []
        for part in (here.parent / target).parts:
            if part == "..":
                parts.pop()
            else:
                parts.append(part)
        place = "/".join(parts)
        there = OUTSIDE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if there is None or not there.endswith(".md"):
            return text
        up = "../" * (len(PurePosixPath(page).parts) - 1)
        return f"[{text}]({up}{there}{anchor})"

    return _LINK.sub(changed, markdown)


# ---- the command line ----


def cli_page() -> str:
    """Every command with its options, as `--help` has them."""
    top = parser()
    out = ["# Command line", "", "`tilescore COMMAND`, or `python -m tilescore COMMAND`. Exit status: 0 success; 1 "
           "levels that should agree do not, or a check failed; 2 wrong input, which one line on standard error names.",
           ""]
    for name, command in top.commands.items():
        out += [f"## tilescore {name}", "", f"{_escaped(command.description or '')}.", "", "```",
                *command.format_usage().removeprefix("usage: ").splitlines(), "```", "", "| | meaning |", "|---|---|"]
        for action in command._actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                out.append(f"| {_option(command, action)} | {_escaped(_help(command, action))} |")
        examples = (command.epilog or "").partition("\n")[2]
        out += ["", "```", *(f"$ {line.strip()}" for line in examples.splitlines()), "```", ""]
    return "\n".join(out)


def _option(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    takes = "" if action.nargs == 0 else str(action.metavar or "")
    names = ", ".join(action.option_strings)
    text = f"{names} {takes}".strip() if names else takes or action.dest
    return f"`{text}`".replace("|", "\\|")


def _help(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    return command._get_formatter()._expand_help(action) if action.help else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


# ---- the API ----


def api_page() -> str:
    """Every public name with its signature and docstring, in the groups of the package's docstring."""
    head, *groups = re.split(r"^(?=[A-Z][\w ]+: )", inspect.getdoc(tilescore) or "", flags=re.MULTILINE)
    out = ["# Python API", "", as_markdown(head), ""]
    for group in groups:
        title, _, names = group.partition(": ")
        out += [f"## {title}", ""]
        listed = re.findall(r"`(\w+)`", names)
        if title == "Errors":
            listed = [name for name in tilescore.__all__ if name.endswith("Error") or name == "DoesNotFit"]
        for name in listed:
            out += entry(name, getattr(tilescore, name))
        if "Workload" in listed:
            for name in ("AttentionLayer", "MoELayer", "MlpLayer", "NormLayer", "DecoderLayer", "EmbeddingLayer",
                         "HeadLayer"):
                out += entry(name, getattr(tilescore, name))
    return "\n".join(out)


def entry(name: str, value: Any) -> list[str]:
    """A class or function: signature, docstring, and the documented members of a class."""
    out = [f"### {name}", ""]
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        out += ["```python", f"{name}{_signature(value)}", "```", ""]
    out += [as_markdown(inspect.getdoc(value) or ""), ""]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for member, what in vars(value).items():
            target = what.fget if isinstance(what, property) else getattr(what, "__func__", what)
            if member.startswith("_") or not (isinstance(what, property) or inspect.isfunction(target)):
                continue
            if text := inspect.getdoc(target):
                shown = member if isinstance(what, property) else f"{member}{_signature(target)}"
                out += [f"**`{shown}`**", "", as_markdown(text), ""]
    return out


def _signature(value: Any) -> str:
    text = re.sub(r"tilescore\.(?:\w+\.)*", "", str(inspect.signature(value)))
    text = re.sub(r"((?:: |-> ))'([^']*)'", r"\1\2", text)
    return re.sub(r"\b(?:pathlib|collections\.abc|numpy|typing)\.", "", text)


def as_markdown(docstring: str) -> str:
    """A docstring of this project as Markdown: double backquotes, indented blocks after `::`, nothing else differs."""
    text = re.sub(r"``([^`]+)``", r"`\1`", docstring)
    lines, code = [], False
    for line in text.splitlines():
        if code and line and not line.startswith(" "):
            lines.append("```")
            code = False
        elif line.endswith("::"):
            lines += [line[:-1] if line != "::" else "", "", "```text"]
            code = True
            continue
        lines.append(line if code or not line.startswith(" ") else line.lstrip())
    return "\n".join([*lines, "```"] if code else lines)
