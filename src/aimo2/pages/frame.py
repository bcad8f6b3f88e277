"""The frame of a page: its head, its stylesheet, and the policy that keeps everything else out.

Knows nothing of what stands in the body. No script runs and nothing is fetched, whatever a model
wrote: the policy allows this one stylesheet, by its hash, and nothing else.
"""

import base64
import hashlib
from importlib import resources

from aimo2.pages.text import answer_html, escaped, one_line


def page(title: str, body: str) -> str:
    """A whole HTML document; `title` is text, `body` is HTML."""
    style = resources.files("aimo2.pages").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(one_line(title, 120))}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def chip(words: str, kind: str = "") -> str:
    """A short fact in a box; `kind` is a class, `words` text."""
    return f'<span class="chip {kind}">{escaped(words)}</span>'


def answer_chip(answer: str, kind: str = "", words: str = "") -> str:
    """An answer in a box, as a formula where it is one; `words`: text behind it."""
    return f'<span class="chip {kind}">{answer_html(answer)}{escaped(words)}</span>'


def facts(pairs: list[tuple[str, str]]) -> str:
    """Names and values (HTML) side by side."""
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'
