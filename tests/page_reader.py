"""What a browser would make of a page, as far as the tests ask."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "base", "area", "col", "embed", "source"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def shown(self) -> str:
        return " ".join("".join(self.text).split())


def plain(text: str) -> str:
    """The text with every kind of space as one space."""
    return " ".join(text.replace("\xa0", " ").split())
