"""``python -m bench [--quick] [--device cuda] [--out FILE.md]``: prints the table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench import notebooks, sweeps
from bench.rows import Effort, rows
from bench.scaling import HEADER, by_agents, by_length
from ovmse.runs.files import markdown_table
from ovmse.training.phase import machine

COLUMNS = "work", "episodes × longest", "ours", "other", "ratio", "target", "verdict", "floor"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0 whatever the verdicts, 1 if the device is not there."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what costs.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="write the table to a Markdown file as well")
    parser.add_argument("--quick", action="store_true", help="a smoke test: numbers mean nothing")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device is present here; leave out --device cuda.", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    effort = Effort(0.05, True) if options.quick else Effort()
    given = sys.argv[1:] if arguments is None else arguments
    text = report(options.device, effort, " ".join(["python -m bench", *given]))
    if options.out:
        options.out.write_text(text + "\n")
    return 0


def report(device: str, effort: Effort, command: str) -> str:
    """The whole report, printed as it grows."""
    parts: list[str] = []

    def say(part: str) -> None:
        parts.append(part)
        print(part + "\n", flush=True)

    say("# What an update costs")
    say(about(device, command))
    done = []
    for row in rows(device, effort):
        done.append(row)
        print(f"({len(done)}: {row.work}: {row.ratio:.2f} ×)", file=sys.stderr, flush=True)
    lines = [
        [r.work, r.shape, r.ours, r.other, f"{r.ratio:.2f} ×", r.target,
         "pass" if r.met else "short", r.floor]
        for r in done
    ]  # fmt: skip
    say(markdown_table(COLUMNS, lines))
    say(
        "Times: median and, in brackets, the middle half; ratio: the median over pairs, other over "
        "ours (OVM and collecting: as they say). Floor: the matrix products of the real steps at "
        "the speed of one product of the GRU's kind, measured in between; everything else costs "
        "nothing there. Memory: the peak that one update adds, counted by torch's allocator."
    )
    say("## Scaling")
    for lines, sentence in (by_length(device, effort), by_agents(device, effort)):
        say(markdown_table(HEADER, lines))
        say(sentence)
    say("## Batches of notebooks")
    lines, sentence = sweeps.batch(effort)
    say(markdown_table(sweeps.HEADER, lines))
    say(sentence)
    say(sweeps.kills(effort))
    say("## Notebooks")
    lines, sentence = notebooks.opened(effort.quick)
    say(markdown_table(notebooks.HEADER, lines))
    say(sentence)
    short = [f"{r.work} ({r.shape})" for r in done if not r.met]
    say(
        f"{len(short)} of {len(done)} rows fall short"
        + (f": {'; '.join(short)}." if short else ".")
    )
    return "\n\n".join(parts)


def about(device: str, command: str) -> str:
    """Machine, versions and command."""
    here = machine()
    processor = here["cpu"]
    if Path("/proc/cpuinfo").exists():
        names = (x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x)
        processor = next(names, processor).split(": ")[-1]
    where = f"{processor}, {here['cores']} cores"
    clock = "CPU time of the process, one torch thread"
    if device == "cuda":
        where, clock = f"{torch.cuda.get_device_name()} ({where})", "wall time, synchronised"
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"`{command}` on {where}{load}; Python {here['python']}, torch {here['torch']}, "
        f"numpy {np.__version__}; {here['finished']}. {clock}; episodes of random lengths, uniform "
        "from half the longest to the longest; ours and the other in turn, in one process."
    )


if __name__ == "__main__":
    sys.exit(main())
