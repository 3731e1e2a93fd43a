"""The pictures of README.md, of charts that the notebooks hold: python -m analysis.report.pictures

After a notebook was stored anew, the command brings its picture up to date.
"""

from __future__ import annotations

import io
from pathlib import Path

import nbformat
import typer
import vl_convert
from PIL import Image

from analysis.charts import theme
from analysis.charts.show import VEGA, VEGALITE, VL_VERSION
from analysis.report.page import NOTEBOOKS, outputs
from ovmse.errors import UserError
from ovmse.runs.files import PROJECT, replacing

# The notebook of each, the kind of its first chart, and how many of its panels (None: all).
PICTURES = {
    "figure1": ("02_q_drift", VEGALITE, None),
    "player": ("03_exploration", VEGA, None),
    "ablation": ("05_ablation", VEGALITE, 1),  # the map with most seeds
}
SCALE, INKS = 1.5, 200


def chart(notebook: str, kind: str, panels: int | None = None) -> dict:
    """The specification of the first chart of a kind that is stored in a notebook, with the first
    of its panels; raises UserError if there is none."""
    read = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    found = [data[kind] for data in outputs(read) if kind in data]
    if not found:
        raise UserError(f"{notebook} holds no chart of {kind}")
    return found[0] if panels is None else found[0] | {"vconcat": found[0]["vconcat"][:panels]}


def picture(spec: dict, kind: str) -> bytes:
    """The chart as a PNG on white, in few inks: a quarter of vl-convert's own."""
    drawn = theme.on_paper(spec)
    if kind == VEGA:
        raw = vl_convert.vega_to_png(drawn, scale=SCALE)
    else:
        raw = vl_convert.vegalite_to_png(drawn, vl_version=VL_VERSION, scale=SCALE)
    small = io.BytesIO()
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    image.quantize(INKS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def main(folder: Path = PROJECT / "docs/pictures") -> None:
    """Writes the pictures."""
    for name, (notebook, kind, panels) in PICTURES.items():
        with replacing(folder / f"{name}.png") as part:
            part.write_bytes(picture(chart(notebook, kind, panels), kind))


if __name__ == "__main__":
    typer.run(main)
