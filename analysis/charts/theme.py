"""One look for every chart: each algorithm has one colour and one point shape.

The colours are the palette of Okabe and Ito (2008, "Color Universal Design") without its yellow,
which is lost on a projector, and with a brown and a violet that stand out on white and on black.
Under simulated deuteranopia and protanopia every pair stays at least 17 CIELAB units apart (see
`tests/analysis/test_analysis.py`); the shapes tell the lines apart in black and white too.

Text, and what is black, has the colour of the text around the chart, on no ground of its own: so
charts follow a dark theme. Only their pictures, which cannot, are black on white.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from PIL import ImageColor

from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
AROUND = "currentColor"  # of the text around the chart: black or white, as the theme is
INK, QUIET, GRID = "#222222", "#767676", "#88888840"
REFERENCE = QUIET  # of lines and grounds: no grey can be read on white and on black alike
SOFT: dict[str, Any] = {"color": AROUND, "opacity": 0.75}  # of text that is not the first to read


class Style(NamedTuple):
    """How one algorithm looks: `colour` of its line, point `shape`."""

    colour: str
    shape: str


_SAW = "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z"
STYLES: dict[str, Style] = {
    "ovmse": Style("#0072B2", "circle"),
    "ovm": Style("#009E73", "triangle-up"),
    "se": Style("#56B4E9", "diamond"),
    "switch_cql": Style("#D55E00", "square"),
    "macql": Style("#CC79A7", "triangle-down"),
    "macal_ql": Style("#E69F00", "cross"),
    "action_proposal": Style("#A03C28", "triangle-left"),
    "qmix": Style(AROUND, _SAW),
    "wsrl": Style("#7850F0", "triangle-right"),
}


def style(algorithm: str) -> Style:
    """The look of `algorithm` (a name of `ovmse.method.algorithms.ALGORITHMS`).

    Raises `UserError` on a name without one: a new algorithm needs a colour of its own.
    """
    if algorithm not in STYLES:
        raise UserError(
            f"no colour for the algorithm {algorithm!r}: add it to STYLES in "
            f"analysis/charts/theme.py (known: {', '.join(STYLES)})"
        )
    return STYLES[algorithm]


def label(algorithm: str) -> str:
    """The name of `algorithm` as papers print it: `macal_ql` -> `MACal-QL`."""
    return ALGORITHMS[algorithm].label


def in_order(algorithms: Iterable[str]) -> list[str]:
    """The distinct names of `algorithms` in the order of the table of algorithms."""
    present = set(algorithms)
    for name in present:
        style(name)
    return [name for name in STYLES if name in present]


def on_paper(spec: dict) -> dict:
    """`spec` as a picture shows it: on white, and black where it would be as the text around it."""
    return json.loads(json.dumps(spec).replace(AROUND, INK).replace("transparent", "white"))


def inks() -> list[tuple[int, int, int]]:
    """Every colour (RGB, 0..255) a chart needs: the styles with tints, and greys."""
    pure = [s.colour for s in STYLES.values() if s.colour != AROUND]
    shades = {(v, v, v) for v in (34, 70, 95, 118, 150, 185, 215, 225, 235, 255)}
    for red, green, blue in (ImageColor.getrgb(c)[:3] for c in pure):
        for a in (1, 0.8, 0.6, 0.35, 0.2):
            fade = [round(255 + a * (level - 255)) for level in (red, green, blue)]
            shades.add((fade[0], fade[1], fade[2]))
    return sorted(shades)


def config() -> dict:
    """The Vega-Lite `config` of every chart: large quiet type, no frame, a faint grid."""
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "line": {"strokeJoin": "round", "strokeCap": "round"},
        "axis": {
            "labelFontSize": 14,
            "titleFontSize": 15,
            "titleFontWeight": "normal",
            "labelColor": AROUND,
            "titleColor": AROUND,
            "titlePadding": 10,
            "gridColor": GRID,
            "domain": False,
            "tickColor": GRID,
            "tickCount": 6,
        },
        "title": {
            "anchor": "start",
            "fontSize": 18,
            "color": AROUND,
            "subtitleFontSize": 14,
            "subtitleColor": AROUND,
            "subtitlePadding": 6,
            "offset": 14,
        },
        "text": {"fontSize": 15, "color": AROUND},
        "legend": {
            "orient": "top",
            "labelFontSize": 14,
            "titleFontSize": 14,
            "titleFontWeight": "normal",
            "labelColor": AROUND,
            "titleColor": AROUND,
            "labelLimit": 260,
            "symbolOpacity": 1,
        },
    }
