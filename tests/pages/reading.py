"""Read a page back: its nesting, its tags, its text."""

import re
from html.parser import HTMLParser

VOID = {"meta", "input", "wbr"}
KNOWN = {
    "html", "head", "meta", "title", "wbr", "style", "body", "main", "section", "h1", "h2", "h3",
    "p", "a", "div", "span", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "ul",
    "li", "details", "summary", "pre", "code", "svg", "g", "rect", "line", "circle", "path", "text",
    "fieldset", "legend", "label", "input", "b", "i", "strong", "math", "mrow", "mi", "mo", "mn",
    "mtext", "mfrac", "msqrt", "mroot", "msup", "msub", "msubsup", "munder", "mover",
    "munderover", "mspace", "mtable", "mtr", "mtd",
}  # fmt: skip


class Reader(HTMLParser):
    """Checks nesting, and keeps the tags, the attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.opened: list[str] = []
        self.feed(page)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def read(page: str) -> Reader:
    reader = Reader(page)
    assert set(reader.tags) <= KNOWN
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name == "style"]
    for name, value in reader.attributes:
        if name in ("href", "src"):
            assert re.fullmatch(r"#q\d+(b\d+)?|(\.\./|[\w-]+/)?[\w.-]+\.html", value)
    return reader
