"""Pages that a run leaves, read as a browser would."""

from html.parser import HTMLParser


class Cells(HTMLParser):
    """The text of a page's cells, and its tags."""

    def __init__(self, content: bytes):
        super().__init__()
        self.cells, self.tags, self.inside = [], set(), False
        self.feed(content.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


SAFE = {"html", "head", "meta", "title", "style", "body", "h1", "p", "table", "tr", "th", "td"}
