"""A lineage as a layered drawing, parents above children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from treadle.report.charts import CHAR
from treadle.report.html import Html, tag

_HEIGHT, _GAP_Y = 44, 34


@dataclass(frozen=True)
class Box:
    """A node: two lines of text; ``strong`` marks what is live."""

    id: str
    title: str
    subtitle: str
    kind: str
    strong: bool = False


def layers(boxes: Sequence[Box], parents: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Ids by layer: each stands below all its parents; within a layer by the mean place of the parents (Sugiyama et al. 1981)."""
    known = {box.id for box in boxes}
    depth: dict[str, int] = {}

    def place(id: str) -> int:
        if id not in depth:
            depth[id] = 0  # a lineage has no cycles; were there one, it would end here
            depth[id] = 1 + max((place(parent) for parent in parents.get(id, ()) if parent in known), default=-1)
        return depth[id]

    found: list[list[str]] = []
    for box in boxes:
        while len(found) <= place(box.id):
            found.append([])
        found[depth[box.id]].append(box.id)
    x: dict[str, float] = {}
    for row in found:
        def mean(id: str) -> float:
            above = [x[parent] for parent in parents.get(id, ()) if parent in x]
            return sum(above) / len(above) if above else 0.0

        row.sort(key=mean)
        for index, id in enumerate(row):
            x[id] = (index + 0.5) / len(row)
    return found


def draw_graph(boxes: Sequence[Box], parents: Mapping[str, Sequence[str]], title: str, width: int) -> Html:
    """The boxes with an arrow from each parent to its child; an arrow that passes a layer goes round its boxes."""
    rows = layers(boxes, parents)
    widest = max(len(row) for row in rows)
    by_id = {box.id: box for box in boxes}
    wanted = max(max(len(box.title), len(box.subtitle)) for box in boxes) * CHAR + 20
    gap = 14.0
    box_width = min(wanted, max(96.0, (width - gap * (widest + 1)) / widest))
    width = max(width, int(widest * (box_width + gap) + gap))
    at: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        step = width / len(row)
        for index, id in enumerate(row):
            at[id] = (step * (index + 0.5), level * (_HEIGHT + _GAP_Y) + 2)
    level_of = {id: level for level, row in enumerate(rows) for id in row}
    lines = []
    for child, above in parents.items():
        for parent in above:
            if parent in at and child in at:
                skipped = [at[id] for row in rows[level_of[parent] + 1 : level_of[child]] for id in row]
                path = _path(at[parent], at[child], skipped, box_width, width)
                end = f"url(#arrow{width})"
                lines.append(tag("path", d=path, class_="edge", marker_end=end, data_edge=f"{parent} {child}"))
    cells = [_cell(by_id[id], x, y, box_width) for id, (x, y) in at.items()]
    arrow = tag("path", d="M0,0 L8,4 L0,8 z", class_="head")
    size = {"viewBox": "0 0 8 8", "refX": 7, "refY": 4, "markerWidth": 8, "markerHeight": 8}
    marker = tag("marker", arrow, id=f"arrow{width}", orient="auto", **size)
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 4
    return tag(
        "svg", tag("title", title), tag("defs", marker), *lines, *cells, viewBox=f"0 0 {width} {height}", width=width,
        height=height, role="img", class_="graph",
    )


def _cell(box: Box, x: float, y: float, width: float) -> Html:
    fits = int((width - 12) / CHAR)
    shown = [line if len(line) <= fits else line[: fits - 1] + "…" for line in (box.title, box.subtitle)]
    looks = f"box k-{box.kind}" + (" live" if box.strong else "")
    return tag(
        "g", tag("title", f"{box.title}, {box.subtitle} ({box.id})"),
        tag("rect", x=x - width / 2, y=y, width=width, height=_HEIGHT, rx=7, class_=looks),
        tag("text", shown[0], x=x, y=y + 19, text_anchor="middle", class_="strong"),
        tag("text", shown[1], x=x, y=y + 35, text_anchor="middle"), data_node=box.id,
    )


def _path(
    start: tuple[float, float], end: tuple[float, float], skipped: Sequence[tuple[float, float]], box: float, width: float
) -> str:
    """A curve from below the parent to above the child, bent aside where it would cross boxes in between."""
    (x0, y0), (x1, y1) = (start[0], start[1] + _HEIGHT), (end[0], end[1] - 1)
    blocked = [x for x, y in skipped if abs(x - (x0 + (x1 - x0) * (y + _HEIGHT / 2 - y0) / max(y1 - y0, 1))) < box / 2 + 6]
    half = (y1 - y0) / 2
    if not blocked:
        return f"M{x0:.1f},{y0:.1f} C{x0:.1f},{y0 + half:.1f} {x1:.1f},{y1 - half:.1f} {x1:.1f},{y1:.1f}"
    right, left = max(blocked) + box / 2 + 12, min(blocked) - box / 2 - 12
    side = min((place for place in (left, right) if 0 < place < width), key=lambda place: abs(place - (x0 + x1) / 2), default=left)
    ys = [y for _, y in skipped]
    top, bottom = min(ys) - 4, max(ys) + _HEIGHT + 4
    turn = _GAP_Y / 2
    return (
        f"M{x0:.1f},{y0:.1f} C{x0:.1f},{y0 + turn:.1f} {side:.1f},{top - turn:.1f} {side:.1f},{top:.1f} L{side:.1f},{bottom:.1f} "
        f"C{side:.1f},{bottom + turn:.1f} {x1:.1f},{y1 - turn:.1f} {x1:.1f},{y1:.1f}"
    )
