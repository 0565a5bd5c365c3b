"""HTML and SVG as nested calls. What is not made here is escaped, so that names of files and generated text stay text."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "meta", "hr", "img"})
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Html(str):
    """Markup that is safe to stand as it is."""

    __slots__ = ()

    def __html__(self) -> Html:
        """By which templates know that it is markup."""
        return self


def text(value: object) -> Html:
    """``value`` escaped, unless it is markup already; control characters become U+FFFD."""
    return value if isinstance(value, Html) else Html(html.escape(_UNSHOWABLE.sub("�", str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. ``class_`` gives ``class``, ``stroke_width`` gives ``stroke-width``; attributes that are None are left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_short(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    return Html(text(Html(between)).join(text(part) for part in parts))


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], *, numeric: Iterable[int] = (), caption: str = "",
    stacks: bool = False,
) -> Html:
    """A table whose first column names the rows; ``numeric`` columns are aligned to the right. Where it is too wide it scrolls, or
    with ``stacks`` each row becomes a block, its values beneath each other after the names of their columns."""
    right = set(numeric)

    def cells(row: Sequence[object], kind: str) -> Html:
        made = []
        for index, value in enumerate(row):
            name = "th" if kind == "head" or index == 0 else "td"
            scope = "col" if kind == "head" else ("row" if index == 0 else None)
            label = head[index] if stacks and kind == "body" and head[index] else None
            made.append(tag(name, value, class_="number" if index in right else None, scope=scope, data_label=label))
        return tag("tr", *made)

    body = tag("tbody", *(cells(row, "body") for row in rows))
    top = tag("thead", cells(head, "head")) if any(head) else ""
    made = tag("table", tag("caption", caption) if caption else "", top, body, class_="stacks" if stacks else None)
    return tag("div", made, class_="scroll", tabindex=0)


def picture(png: bytes, alt: str, note: str) -> Html:
    """A picture that is part of the page, over its ``note``."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return tag("figure", tag("img", src=source, alt=alt, class_="sheet"), tag("figcaption", note))


def keyed(name: str, colour: int) -> Html:
    """A name after the colour that it has in a chart, on one line."""
    return tag("span", tag("i", class_=f"key b{colour}"), name, class_="date")


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
