"""Write texts side by side as one HTML file, which loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tgt_ray.core.texts import visible

#: A heading, and the rows below it, each with one cell for each column.
Group = tuple[str, Sequence[Sequence[str]]]

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4em .6em }
th, td { border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
th[colspan] { background: #eee }
"""


def page(title: str, facts: Sequence[str], columns: Sequence[str], groups: Sequence[Group]) -> bytes:
    """Make the page: a title, lines of text, and a table. All texts are escaped, as they come from data and models.

    - facts: lines of text below the title
    - columns: headings of the table's columns
    - returns: the HTML, encoded in UTF-8
    """
    lines = [
        "<!doctype html>",
        '<html><head><meta charset="utf-8">',
        # The browser fetches and runs nothing, even if something were not escaped.
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
        f"<title>{_visible(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_visible(title)}</h1>",
        *(f"<p>{_visible(fact)}</p>" for fact in facts),
        f"<table><tr>{''.join(f'<th>{_visible(name)}</th>' for name in columns)}</tr>",
    ]
    for heading, rows in groups:
        lines.append(f'<tr><th colspan="{len(columns)}">{_visible(heading)}</th></tr>')
        # Each cell finds its own writing direction, so that none changes that of its neighbours.
        cells = ("".join(f'<td dir="auto">{_visible(cell)}</td>' for cell in row) for row in rows)
        lines += [f"<tr>{row}</tr>" for row in cells]
    lines.append("</table></body></html>")
    return "\n".join(lines).encode()


def _visible(text: str) -> str:
    """Escape a text for HTML, without the control characters that generators may make and HTML forbids."""
    return escape(visible(text))
