"""What is displayed: tables for readers, with their values to be saved."""

from __future__ import annotations

import io
import re
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from nbval.plugin import get_sanitize_patterns

from analysis.charts import show

TABLE = pd.DataFrame(
    {
        "run": ["/somewhere/a", "/somewhere/b"],
        "algorithm": ["ovmse", "se"],
        "win": [1 / 3, np.nan],
        "win_min": [0.25, np.nan],
        "won": [True, False],
    }
)
SAID = pd.DataFrame({"steps": [1, 2], "what": ['a "b", <c> & d', "ε 100 %\nnext"]})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(show, "display", lambda data, raw: found.append(data["text/html"]))
    return found


def saved(html: str) -> pd.DataFrame:
    """The file that the link of a table holds, as a browser reads it."""
    [uri] = re.findall(r'<a download="table.csv" href="data:text/csv;charset=utf-8,([^"]*)"', html)
    assert not re.search(r"[\s<>#]", uri)
    return pd.read_csv(io.StringIO(unquote(uri)))


def test_a_table_is_saved_with_its_numbers_and_without_what_is_not_shown(shown) -> None:
    show.show_table(TABLE)
    assert "33 %" in shown[0] and "/somewhere" not in shown[0]
    got = saved(shown[0])
    assert list(got) == ["algorithm", "win", "win_min"]
    assert list(got.algorithm) == ["OVMSE", "SE"]
    np.testing.assert_allclose(got.win, TABLE.win, rtol=1e-5)


def test_any_text_comes_back_from_the_file(shown) -> None:
    show.show_text(SAID)
    pd.testing.assert_frame_equal(saved(shown[0]), SAID)


def test_nbval_compares_what_readers_see_of_a_table_alone(shown) -> None:
    """Both with and without the link, as in notebooks that were stored before there was one."""
    [(pattern, instead)] = get_sanitize_patterns((ROOT / "tests/nbval.cfg").read_text())
    for table in (TABLE, TABLE.assign(win=[0.3331, np.nan]), TABLE.assign(win=[0.35, np.nan])):
        show.show_table(table)
    first, near, other = (re.sub(pattern, instead, html) for html in shown)
    assert first == near != other
    assert first == shown[0][: shown[0].index("</table>") + len("</table>")]
