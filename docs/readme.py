"""Writes README.md from readme.md.j2 and the records.

python docs/readme.py
"""

from __future__ import annotations

from pathlib import Path

import results

TEMPLATE = Path(__file__).parent / "readme.md.j2"
PAGE = results.ROOT / "README.md"


def render() -> str:
    """Give the page."""
    return results.render(template=TEMPLATE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"written: {PAGE.relative_to(results.ROOT)}")
