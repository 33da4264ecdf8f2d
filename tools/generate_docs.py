#!/usr/bin/env python3
"""Write the generated parts of the documentation: `tools/generate_docs.py [--check]`.

A generated part stands between two comments that name it; everything else in the file is written
by hand and stays. So are the manual pages and the completion of bash. JSON schemas are generated
as a whole. With --check nothing is written, and the exit status is 1 if a file is not up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dmevpn.admin.metric_table import METRICS  # noqa: E402
from dmevpn.config.grammar import KEYWORDS, Context, Keyword, Option  # noqa: E402
from tools import completion, manual, schemas  # noqa: E402


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def keyword_tables() -> str:
    """Every keyword that has an effect, by the place where it belongs."""
    sections = {
        "The file as a whole": {Context.TOP},
        "Control interfaces": {Context.CONTROL},
        "Data interfaces": {Context.SPOKE, Context.HUB},
    }
    parts = []
    for title, contexts in sections.items():
        rows = [r for r in KEYWORDS.values() if not r.no_effect and r.contexts & contexts]
        data = Context.SPOKE in contexts
        head = ["keyword", *["of"] * data, "meaning", "a change, on reload"]
        cells = [[usage(r), *[sides(r)] * data, meaning(r), r.reload.value] for r in rows]
        parts += [f"### {title}", "", table(head, cells), ""]
    return "\n".join(parts)


def usage(row: Keyword) -> str:
    """A keyword with its arguments and the options that have an effect."""
    shown = replace(row, options=tuple(o for o in row.options if not o.no_effect))
    return f"`{shown.usage}`"


def meaning(row: Keyword) -> str:
    """What a keyword does."""
    return row.help + (" Repeatable." if row.repeatable and row.name != "interface" else "")


def sides(row: Keyword) -> str:
    """Which data interfaces a keyword belongs to."""
    names = {Context.SPOKE: "spoke", Context.HUB: "hub"}
    return ", ".join(name for context, name in names.items() if context in row.contexts)


def idle_table() -> str:
    """Keywords and options that are accepted and do nothing yet."""
    idle = [row for row in KEYWORDS.values() if row.no_effect]
    rows = [[f"`{row.usage}`", row.help, row.no_effect] for row in idle]
    # An option of an idle keyword is idle with it; the others, with the keywords they follow:
    options: dict[Option, list[str]] = {}
    for row in KEYWORDS.values():
        for option in row.options:
            if option.no_effect and not row.no_effect:
                options.setdefault(option, []).append(f"`{row.name}`")
    for option, names in options.items():
        rows.append([f"`{option.name}` after {', '.join(names)}", option.help, option.no_effect])
    return table(["words", "what they are for", "why they do nothing"], rows)


def metric_table() -> str:
    """Every metric with its meaning."""
    return table(["metric", "meaning"], [[f"`{name}`", text] for name, text in METRICS.items()])


def module_list() -> str:
    """Every module of the program by its package, with the first line of its docstring."""
    packages: dict[str, list[list[str]]] = {}
    program = ROOT / "dmevpn"
    for path in sorted(program.rglob("*.py")):
        if path.name == "__init__.py":
            continue
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        line = text.partition("\n")[0].replace("``", "`")
        line = re.sub(r":class:`~[\w.]*?(\w+)`", r"`\1`", line.partition(" Layer: ")[0])
        package = path.parent.relative_to(ROOT).as_posix()
        packages.setdefault(package, []).append([f"`{path.stem}`", line])
    return "\n\n".join(
        f"### `{package}`\n\n{table(['module', 'what it is about'], rows)}"
        for package, rows in sorted(packages.items())
    )


#: File and name of each generated part, and who writes it.
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/configuration.md": {"keywords": keyword_tables, "idle": idle_table},
    "docs/architecture.md": {"modules": module_list},
    "docs/metrics.md": {"metrics": metric_table},
    "docs/man/dmevpn.8": {"options": manual.daemon_options},
    "docs/man/dmevpn.conf.5": {
        "top": lambda: manual.keywords(Context.TOP),
        "control": lambda: manual.keywords(Context.CONTROL),
        "spoke": lambda: manual.keywords(Context.SPOKE),
        "hub": lambda: manual.keywords(Context.HUB),
        "options": manual.keyword_options,
        "idle": manual.idle_keywords,
    },
    "docs/man/dmevpnctl.8": {"commands": manual.commands},
    "etc/bash-completion/dmevpnctl": {"commands": completion.tables},
}


def updated(path: str) -> str:
    """The contents that a file should have."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, write in PARTS[path].items():
        begin, end = (comment(path, f"{word}: {name}") for word in ("generated", "end"))
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{path}: no part named {name}")
        # An empty line would be one in the manual, too.
        gap = "\n" if path.endswith(".md") else ""
        text = f"{before}{begin}{gap}{write().rstrip()}\n{gap}{end}{after}"
    return text


def comment(path: str, text: str) -> str:
    """A line that the readers of a file do not see."""
    if path.endswith(".md"):
        return f"<!-- {text} -->\n"
    return f'.\\" {text}\n' if path.startswith("docs/man/") else f"# {text}\n"


def main(arguments: list[str]) -> int:
    """Write the files, or with --check compare them."""
    wanted = {path: updated(path) for path in PARTS} | schemas.documents()
    stale = [path for path in wanted if wanted[path] != _contents(path)]
    known = {path for path in wanted if path.startswith(schemas.DIRECTORY)}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / schemas.DIRECTORY).glob("*")}
    surplus = sorted(there - known)
    if arguments == ["--check"]:
        for path in [*stale, *surplus]:
            print(f"{path} is not up to date: run tools/generate_docs.py", file=sys.stderr)
        return 1 if stale or surplus else 0
    (ROOT / schemas.DIRECTORY).mkdir(exist_ok=True)
    for path in stale:
        (ROOT / path).write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path}")
    for path in surplus:
        (ROOT / path).unlink()
        print(f"removed {path}: there is no such command")
    return 0


def _contents(path: str) -> str:
    """What a file has; nothing if it is not there."""
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
