"""The whole study as one folder of pages: a front page, every notebook, and the texts they link.

The folder opens from a disk, without internet. All pages take Vega from one file in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from analysis.report.page import (
    CHARTS,
    Entry,
    description,
    follow,
    library,
    made,
    outputs,
    render,
    title,
    write,
)
from ovmse.runs.files import PROJECT

FRONT, VEGA_FILE = "index.html", "vega.js"
NAME = "What does a team forget once it learns online?"
QUESTION = """
**Question: a team of agents has learned from recorded battles alone. When it then goes on learning
in battles of its own, does it keep what it knew, and what decides that?**""".strip()
TEXTS = ("teaching", "datasets", "settings", "batches", "starcraft", "speed")
PICTURE = "front-page"  # the tag of the cell whose chart stands for its notebook


def write_study(folder: Path, notebooks: Iterable[Path], findings: Sequence[str]) -> Path:
    """Writes the pages into `folder` and returns the front page; nothing is run.

    The notebooks show the outputs that are stored in them; findings: the sentences that answer the
    front page's question, in Markdown. Texts of the project that a page links become pages too; a
    link to anything else of the project is left out, since it would break where the folder goes.
    Each file appears whole, the front page last.
    """
    read = {path: nbformat.read(path, as_version=4) for path in sorted(notebooks, key=_stem)}
    entries = [Entry(FRONT, "Front page", NAME)]
    entries += [
        Entry(f"{path.stem}.html", path.stem.replace("_", " "), title(of) or path.stem)
        for path, of in read.items()
    ]
    known = {entry.to for entry in entries}
    texts: dict[Path, str] = {PROJECT / "README.md": FRONT}

    def address(place: Path) -> str | None:
        if place.suffix == ".ipynb":
            return name if (name := f"{place.stem}.html") in known else None
        if place.suffix == ".md" and place.is_relative_to(PROJECT):
            parts = place.relative_to(PROJECT).with_suffix("").parts
            return texts.setdefault(place, f"{'-'.join(parts)}.html")
        return None

    def page(to: str, of: NotebookNode, source: Path) -> None:
        text = render(
            of,
            title(of) or source.stem,
            lambda url: url if url in known else _leads(follow(url, source.parent, address)),
            made(of, source),
            path=source.parent,
            navigation=entries,
            here=to,
            vega=VEGA_FILE,
        )
        write(folder / to, text)

    write(folder / VEGA_FILE, library())
    for path, of in read.items():
        page(f"{path.stem}.html", of, path)
    front = _front(read, entries, findings)
    for name in TEXTS:
        address(PROJECT / f"docs/{name}.md")
    for source, to in _growing(texts):
        if to != FRONT:
            page(to, _markdown(source.read_text(encoding="utf-8")), source)
    page(FRONT, front, PROJECT / "notebooks" / FRONT)
    return folder / FRONT


def _leads(to: str | None) -> str | None:
    """The front page stands for README, whose sections it does not have."""
    return FRONT if to and to.startswith(f"{FRONT}#") else to


def _stem(path: Path) -> str:
    return path.stem


def _growing(texts: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    """What is in the dictionary, and what comes to it meanwhile."""
    done: set[Path] = set()
    while left := [place for place in texts if place not in done]:
        for place in left:
            done.add(place)
            yield place, texts[place]


def _markdown(*texts: str) -> NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in texts])


def _front(
    read: dict[Path, NotebookNode], entries: Sequence[Entry], findings: Sequence[str]
) -> NotebookNode:
    """The front page as a notebook of texts."""
    answer = "\n".join(f"{n}. {sentence}" for n, sentence in enumerate(findings, 1))
    cards = [_card(entry, of) for entry, of in zip(entries[1:], read.values(), strict=True)]
    more = "\n".join(f"- [{name}](../docs/{name}.md)" for name in TEXTS)
    return _markdown(
        f"# {NAME}\n\n{QUESTION}\n\n**Answer.**\n\n{answer}\n\nAll of it on SMAX, which imitates "
        "StarCraft II's micro-management; how each number was made stands on the pages below.",
        "## The notebooks",
        *cards,
        f"## How to cite\n\n{citation()}",
        f"## More\n\n{more}",
    )


def _card(entry: Entry, of: NotebookNode) -> str:
    """A notebook on the front page: its picture, its question, and the answer it opens with."""
    parts = [f"### [{entry.title}]({entry.to})"]
    texts = [cell.source for cell in of.cells if cell.cell_type == "markdown"]
    if asked := re.search(r"\*\*Question: *(.+?)\*\*", "\n".join(texts), re.S):
        question = " ".join(asked[1].split())
        parts.append(question[0].upper() + question[1:])
    answers = (data.get("text/markdown", "") for data in outputs(of))
    parts.append(next((text for text in answers if text.startswith("**Answer.**")), ""))
    if picture := _picture(of):
        parts.insert(0, f'<div class="picture"><a href="{entry.to}">{picture}</a></div>')
    body = "\n\n".join(part for part in parts if part)
    return f'<article class="card">\n\n{body}\n\n</article>'


def _picture(of: NotebookNode) -> str:
    """The chart of the tagged cell, or the first one."""
    tagged = [c for c in of.cells if PICTURE in c.metadata.get("tags", [])]
    for data in outputs(*tagged, of):
        specs = [data[kind] for kind in CHARTS if kind in data]
        if specs and (png := data.get("image/png")):
            png = "".join(png).replace("\n", "")
            said = escape(description(specs[0]))
            return f'<img src="data:image/png;base64,{png}" alt="{said}">'
    return ""


def citation() -> str:
    """How to cite the paper and the project, as CITATION.cff says, in Markdown."""
    said = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = said["references"][0]
    authors = [f"{one['given-names']} {one['family-names']}" for one in paper["authors"]]
    bibtex = {
        "title": paper["title"],
        "author": " and ".join(authors),
        "booktitle": paper["collection-title"],
        "year": paper["year"],
        "url": paper["url"],
    }
    fields = ",\n".join(f"  {name} = {{{value}}}" for name, value in bibtex.items())
    return (
        f"{', '.join(authors)}: [{paper['title']}]({paper['url']}). "
        f"{paper['conference']['name']}.\n\n```\n@inproceedings{{ovmse{paper['year']},\n{fields}\n}}\n```\n\n"
        f"And this project: {said['title']}, version {said['version']}, {said['license']} licence "
        f"({', '.join(one['name'] for one in said['authors'])})."
    )
