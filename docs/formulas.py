"""What mkdocs runs on every page: formulas, which arithmatex has marked, become MathML."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?:\(|\[)(?P<tex>.*?)\\(?:\)|\])</(?P=tag)>', re.S
)


def typeset(found: re.Match[str]) -> str:
    """One formula; a browser shows it without a script."""
    block = found["tag"] == "div"
    tex = html.unescape(found["tex"]).strip()
    made = convert(tex, display="block" if block else "inline")
    if "\\" in made:  # what it does not know it hands on
        raise ValueError(f"a formula that latex2mathml does not know whole: {tex}")
    return f'<div class="formula">{made}</div>' if block else made


def on_page_content(content: str, **_: Any) -> str:
    """The HTML of a page with its formulas set."""
    return MARKED.sub(typeset, content)
