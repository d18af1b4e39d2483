"""What panels are made of: a few marks, written as SVG for a page or painted for a film."""

import base64
import html
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

INK, PAPER, FAINT, GRID = "#1f2430", "#ffffff", "#5c6470", "#e3e6ea"


class Line(NamedTuple):
    """Straight pieces from point to point."""

    points: Sequence[tuple[float, float]]
    color: str = INK
    width: float = 1.0
    dash: tuple[float, float] | None = None


class Dots(NamedTuple):
    """Equal disks with an edge."""

    points: Sequence[tuple[float, float]]
    radius: float
    fill: str
    edge: str = PAPER


class Box(NamedTuple):
    """A rectangle; hollow where `fill` is empty."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    edge: str = ""


class Words(NamedTuple):
    """A text; `anchor` is start, middle or end of what stands at x, and y its foot."""

    x: float
    y: float
    text: str
    size: float = 11.0
    color: str = INK
    anchor: str = "start"
    bold: bool = False


class Picture(NamedTuple):
    """Pixels, stretched over a rectangle."""

    x: float
    y: float
    width: float
    height: float
    pixels: UInt8[np.ndarray, "h w 3"]


Mark = Line | Dots | Box | Words | Picture


class Panel(NamedTuple):
    """Marks on white paper, and a sentence for those who do not see them."""

    width: float
    height: float
    marks: Sequence[Mark]
    says: str


# For a page ---------------------------------------------------------------------------------------


def svg(panel: Panel) -> str:
    """The panel as an element that is as wide as its place."""
    body = "".join(map(_element, panel.marks))
    return (
        f'<svg viewBox="0 0 {panel.width:g} {panel.height:g}" role="img" '
        f'aria-label="{html.escape(panel.says)}">{body}</svg>'
    )


def _element(mark: Mark) -> str:
    """A mark as an element of SVG."""
    match mark:
        case Line():
            points = "L".join(f"{x:.1f} {y:.1f}" for x, y in mark.points)
            dash = f' stroke-dasharray="{mark.dash[0]:g} {mark.dash[1]:g}"' if mark.dash else ""
            look = f'stroke="{mark.color}" stroke-width="{mark.width:.1f}"{dash}'
            return f'<path d="M{points}" fill="none" {look}/>'
        case Dots():  # strokes of no length with round ends: a tenth of as many circles
            ways = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in mark.points)
            shell = f'<path d="{ways}" fill="none" stroke-linecap="round" '
            outer, inner = 2 * mark.radius + 0.7, 2 * mark.radius - 0.7
            return (
                f'{shell}stroke="{mark.edge}" stroke-width="{outer:.1f}"/>'
                f'{shell}stroke="{mark.fill}" stroke-width="{inner:.1f}"/>'
            )
        case Box():
            place = f'x="{mark.x:.1f}" y="{mark.y:.1f}"'
            size = f'width="{mark.width:.1f}" height="{mark.height:.1f}"'
            return f"<rect {place} {size} {_paint(mark.fill, mark.edge)}/>"
        case Words():
            weight = ' font-weight="600"' if mark.bold else ""
            look = f'fill="{mark.color}" font-size="{mark.size:g}" text-anchor="{mark.anchor}"'
            place = f'x="{mark.x:.1f}" y="{mark.y:.1f}"'
            return f"<text {place} {look}{weight}>{html.escape(mark.text)}</text>"
        case Picture():
            place = f'x="{mark.x:.1f}" y="{mark.y:.1f}"'
            size = f'width="{mark.width:.1f}" height="{mark.height:.1f}"'
            stretched = 'preserveAspectRatio="none" decoding="sync"'
            return f'<image {place} {size} {stretched} href="{_address(mark.pixels)}"/>'


def _paint(fill: str, edge: str) -> str:
    """How a shape is filled and bordered."""
    border = f' stroke="{edge}" stroke-width="0.8"' if edge else ""
    return f'fill="{fill or "none"}"{border}'


def _address(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Pixels as an address that holds them."""
    height, width, _ = pixels.shape
    # Pillow takes 0.5 ms for a picture of this size, and this a tenth of that: 34 are in a frame.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


# For a film ---------------------------------------------------------------------------------------

_FINE = 2
"""Painted so much larger, and then made smaller, lines have smooth edges."""


def paint(placed: Iterable[tuple[float, float, Panel]], width: int, height: int) -> np.ndarray:
    """Panels with their left and top edges, painted on one paper."""
    paper = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
    draw = ImageDraw.Draw(paper)
    for left, top, panel in placed:
        for mark in panel.marks:
            _painted(paper, draw, mark, left, top)
    return np.asarray(paper.resize((width, height), Image.Resampling.BOX))


def _painted(
    paper: Image.Image, draw: ImageDraw.ImageDraw, mark: Mark, left: float, top: float
) -> None:
    """Paints a mark of a panel that begins at a place."""

    def at(x: float, y: float) -> tuple[float, float]:
        return (x + left) * _FINE, (y + top) * _FINE

    match mark:
        case Line():
            for piece in _dashes(mark):
                places = [at(*point) for point in piece]
                draw.line(places, mark.color, max(1, round(mark.width * _FINE)), "curve")
        case Dots():
            radius = (mark.radius + 0.35) * _FINE
            for x, y in (at(*point) for point in mark.points):
                box = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(box, mark.fill, mark.edge, _FINE - 1)
        case Box():
            box = (*at(mark.x, mark.y), *at(mark.x + mark.width, mark.y + mark.height))
            draw.rectangle(box, mark.fill or None, mark.edge or None, _FINE - 1)
        case Words():
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
            font = _font(round(mark.size * _FINE), mark.bold)
            draw.text(at(mark.x, mark.y), mark.text, mark.color, font, anchor)
        case Picture():
            x, y = map(round, at(mark.x, mark.y))
            far_x, far_y = map(round, at(mark.x + mark.width, mark.y + mark.height))
            image = Image.fromarray(mark.pixels)
            size = max(1, far_x - x), max(1, far_y - y)
            paper.paste(image.resize(size, Image.Resampling.BILINEAR), (x, y))


def _dashes(line: Line) -> Iterable[Sequence[tuple[float, float]]]:
    """The strokes of a line."""
    points = np.asarray(line.points, float)
    if line.dash is None or len(points) < 2:
        return [line.points] if len(points) > 1 else []
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    stroke, gap = line.dash
    starts = np.arange(0, along[-1], stroke + gap)
    ends = np.minimum(starts + stroke, along[-1])
    places = [np.interp([s, *along[(along > s) & (along < e)], e], along, points[:, axis])
              for s, e in zip(starts, ends, strict=True) for axis in (0, 1)]  # fmt: skip
    return [
        list(zip(x.tolist(), y.tolist(), strict=True))
        for x, y in zip(places[::2], places[1::2], strict=True)
    ]


_fonts: dict[tuple[int, bool], ImageFont.FreeTypeFont] = {}


def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """The font that matplotlib carries with it."""
    if (size, bold) not in _fonts:
        path = font_manager.findfont(
            font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
        )
        _fonts[size, bold] = ImageFont.truetype(path, size)
    return _fonts[size, bold]
