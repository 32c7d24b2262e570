"""README says nothing that is yet to be filled in."""

from tests.helpers.places import ROOT


def test_no_placeholder_is_left():
    for name in ("README.md", "benchmarks/README.md"):
        assert "@@" not in (ROOT / name).read_text()
