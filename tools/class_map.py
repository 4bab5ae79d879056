"""Draw docs/class-map.svg from docs/class-map.txt: one row of boxes per floor, and arrows to what each class uses."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

_WIDTH, _LABEL, _MARGIN, _FLOOR, _BOX_WIDTH, _BOX_HEIGHT = 1000, 90, 50, 92, 160, 48


@dataclass(frozen=True)
class Box:
    name: str
    meaning: str
    uses: tuple[str, ...]
    x: float
    y: float


def boxes_of(text: str) -> tuple[dict[str, Box], list[str]]:
    """The boxes by class name, and the titles of the floors from top to bottom.

    Raises:
        ValueError: A class uses one that is not on a lower floor.
    """
    floors: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("["):
            floors.append((line.strip("[]"), []))
        elif line and not line.startswith("#"):
            floors[-1][1].append(line)
    boxes: dict[str, Box] = {}
    for number, (_, lines) in enumerate(floors):
        share = (_WIDTH - _LABEL - _MARGIN) / len(lines)
        for place, line in enumerate(lines):
            name, _, rest = line.partition(": ")
            meaning, _, uses = rest.partition(" -> ")
            x = _LABEL + share * (place + 0.5)
            boxes[name] = Box(name, meaning, tuple(uses.split(", ")) if uses else (), x, 16 + number * _FLOOR)
    for box in boxes.values():
        for used in box.uses:
            if boxes[used].y <= box.y:
                raise ValueError(f"{box.name} uses {used}, which is not below it")
    return boxes, [title for title, _ in floors]


def draw(text: str) -> str:
    """The picture as SVG."""
    boxes, titles = boxes_of(text)
    height = len(titles) * _FLOOR
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#667"/></marker>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, title in enumerate(titles):
        y = 16 + number * _FLOOR
        parts.append(f'<text x="8" y="{y + 29}" font-size="13" fill="#667">{escape(title)}</text>')
    for box in boxes.values():
        for used in box.uses:
            parts.append(f'<path d="{_way(box, boxes[used])}" fill="none" stroke="#99a" marker-end="url(#tip)"/>')
    for box in boxes.values():
        parts.append(
            f'<rect x="{box.x - _BOX_WIDTH / 2:g}" y="{box.y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6" '
            'fill="#eef2ff" stroke="#446"/>'
            f'<text x="{box.x:g}" y="{box.y + 20}" font-size="14" font-weight="bold" text-anchor="middle">'
            f"{escape(box.name)}</text>"
            f'<text x="{box.x:g}" y="{box.y + 38}" font-size="11" fill="#445" text-anchor="middle">'
            f"{escape(box.meaning)}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _way(box: Box, used: Box) -> str:
    """A line to a box on the next floor, or a curve along the right margin to one further below."""
    if used.y - box.y == _FLOOR:
        return f"M{box.x:g} {box.y + _BOX_HEIGHT:g}L{used.x:g} {used.y:g}"
    start, end, middle = box.x + _BOX_WIDTH / 2, used.x + _BOX_WIDTH / 2, _BOX_HEIGHT / 2
    return f"M{start:g} {box.y + middle:g}C{_WIDTH} {box.y + middle:g} {_WIDTH} {used.y:g} {end:g} {used.y + middle:g}"
