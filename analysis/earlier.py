"""A run beside the earlier ones of its folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.tables import curves, measured
from ovmse.errors import UserError
from ovmse.runs.reading import RunError, find_runs, read_result


def with_earlier(run: str | Path) -> tuple[pd.DataFrame, str]:
    """The curves of a run and of the finished ones of its folder that may be compared with it (see
    `analysis.tables.measured`), and a sentence that says how many those are.

    Of runs that are alike but for what only one of them may have, such as the same seed twice, the
    later one is kept.
    """
    run = Path(run)
    others = [p for p in find_runs(run.parent) if p != run and _finished(p)]
    others.sort(key=lambda path: (path / "result.json").stat().st_mtime, reverse=True)
    kept = curves([run])
    for other in others:
        more = pd.concat([kept, curves([other])], ignore_index=True)
        try:
            for measure in ("test_win_rate", "q_ended"):
                measured(more, measure)
            measured(more, "test_win_rate", "offline")
        except UserError:
            continue
        kept = more
    found = kept.run.nunique() - 1
    said = f"Beside it: {found} of {len(others)} finished runs of this folder"
    if found < len(others):
        said += "; the others have other settings, other code or a seed that is there already"
    return kept, f"{said}." if others else "There is no other finished run in this folder yet."


def _finished(run: Path) -> bool:
    try:
        return bool(read_result(run))
    except RunError:  # what is damaged is not compared
        return False
