"""Floor 1: texts side by side, as one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

#: Rows that belong together under one heading, each with a cell for each column.
Group = tuple[str, Sequence[Sequence[str]]]

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4em .6em; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
th[colspan] { background: #eee }
"""


def page(title: str, facts: Sequence[str], columns: Sequence[str], groups: Sequence[Group]) -> bytes:
    """A title, lines of text, and a table. Texts come from data and models: all of them are escaped."""
    lines = [
        "<!doctype html>",
        '<html><head><meta charset="utf-8">',
        # Nothing is fetched or run, even if something were not escaped.
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(fact)}</p>" for fact in facts),
        f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in columns)}</tr>",
    ]
    for heading, rows in groups:
        lines.append(f'<tr><th colspan="{len(columns)}">{escape(heading)}</th></tr>')
        # Each cell finds its own direction, so that none turns its neighbours around.
        cells = ("".join(f'<td dir="auto">{_visible(cell)}</td>' for cell in row) for row in rows)
        lines += [f"<tr>{row}</tr>" for row in cells]
    lines.append("</table></body></html>")
    return "\n".join(lines).encode()


def _visible(text: str) -> str:
    """Escaped; control characters, which a generator may make and HTML doesn't allow, as the sign for what can't be shown."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", text))
