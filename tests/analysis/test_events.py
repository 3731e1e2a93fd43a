"""Events as tables: against plain loops over the file, and what is said of a damaged one."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from exploring import climb_run, line

from analysis import events as module
from analysis.events import epsilon_at, events, events_or_recorded
from ovmse.runs.reading import RunError, read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return climb_run(tmp_path_factory.mktemp("climb"))


@pytest.fixture
def mine(run: Path, tmp_path: Path):
    """The run with events written by hand."""
    shutil.copytree(run.parent, tmp_path / "runs")
    copy = tmp_path / "runs" / run.name

    def write(*lines: str) -> Path:
        (copy / "events.jsonl").write_text("".join(lines))
        return copy

    return write


def test_the_tables_hold_every_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1000)  # several of them
    got, lines = events(run), (run / "events.jsonl").read_text().splitlines()
    assert (got.agents, len(got.battles)) == (2, len(lines))
    assert len(got.clock) == got.battles.length.sum()
    rows, at, steps = got.explored.itertuples(index=False), [], []
    for text, battle in zip(lines, got.battles.to_dict("records"), strict=True):
        said = json.loads(text)
        assert said["episode"] == battle["battle"]
        assert all(said[n] == battle[n] for n in ("env_steps", "length", "return", "won"))
        assert len(said["explored"]) == battle["explorers"]
        assert sum(e[2] != e[3] for e in said["explored"]) == battle["strayed"]
        for e in said["explored"]:
            row = next(rows)
            assert [row.step, row.agent, row.action, row.greedy] == e[:4]
            assert row.battle == said["episode"] and row.gap == pytest.approx(e[4])
            assert row.at_once == sum(other[0] == e[0] for other in said["explored"])
            at.append(said["env_steps"] - 8 * (said["length"] - e[0]))  # 8 battles side by side
            assert row.env_steps == at[-1]
        steps += [sum(e[0] == t for e in said["explored"]) for t in range(said["length"])]
    assert got.per_step().tolist() == steps
    assert got.per_step(strayed=True).sum() == got.battles.strayed.sum()
    assert min(at) >= 0 and not got.recorded


def test_epsilon_is_what_training_measured(run: Path) -> None:
    rows = [row for row in read_metrics(run) if row["phase"] == "online"]
    config = module.config_of(run)
    given = epsilon_at(config, np.array([row["env_steps"] for row in rows]))
    assert given == pytest.approx([row["epsilon"] for row in rows])
    warm = config.model_copy(update={"policy_warmup_steps": 400})
    assert epsilon_at(warm, np.array([0, 399, 400])).tolist() == [0, 0, config.epsilon_start]
    still = config.model_copy(update={"epsilon_anneal": 0})
    assert float(epsilon_at(still, 3)) == pytest.approx(config.epsilon_end)


def test_by_hand(mine) -> None:
    event = [[1, 0, 2, 0, 0.5], [1, 1, 0, 0, 0], [2, 1, 1, 0, 0.25]]
    got = events(mine(line(1, 40, 4, event), line(2, 48, 2, []), line(3, 56, 3, [])[:-9]))
    assert got.battles.battle.tolist() == [1, 2]  # the third is still being written
    assert got.clock.tolist() == [8, 16, 24, 32, 32, 40]
    assert got.per_step().tolist() == [0, 2, 1, 0, 0, 0]
    assert got.per_step(strayed=True).tolist() == [0, 1, 1, 0, 0, 0]
    assert got.explored.at_once.tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    "damaged",
    [
        "{\n",
        "[]\n",
        line(2, 48, 2, [[2, 0, 1, 0, 0.1]]),  # after the battle's end
        line(2, 48, 2, [[0, 2, 1, 0, 0.1]]),  # no such agent
        line(2, 48, 2, [[0, 0.5, 1, 0, 0.1]]),
        line(2, 48, 2, [[0, 0, 1, 0]]),
        line(2, 48, 2, [[0, 0, 1, 0, None]]),
        line(2, 48, 2, [], won=None),
        line(2, 48, -2, []),
        line(2, 48, 2, [], episode=True),
        line(2, 48, 2, [], episode="2"),
        line(2, 48, 2, [], **{"return": "much"}),
    ],
)
def test_a_damaged_line_is_named(mine, damaged: str) -> None:
    run = mine(line(1, 40, 4, []), damaged, line(3, 56, 3, []))
    with pytest.raises(RunError, match=r"events.jsonl is damaged: line 2 is no battle of 2 agents"):
        events(run)


def test_what_is_missing_is_said(mine) -> None:
    with pytest.raises(RunError, match="no battle of this run has ended yet"):
        events(mine())
    with pytest.raises(RunError, match="its battles are not in order"):
        events(mine(line(2, 40, 4, []), line(1, 48, 2, [])))
    run = mine(line(2, 40, 4, []))
    (run / "events.jsonl").unlink()
    with pytest.raises(RunError, match="holds no events.jsonl"):
        events(run)
    got = events_or_recorded(run, battles=3)
    snapshots = sorted((run / "snapshots").glob("online_*"))
    assert got.recorded and len(got.battles) == 3 * module.SNAPSHOTS < 3 * len(snapshots)
    assert got.battles.battle.is_unique and len(got.explored)
    all_steps = [int(s.stem.removeprefix("online_")) for s in snapshots]
    assert {all_steps[0], all_steps[-1]} < set(got.clock) <= set(all_steps)
    shutil.rmtree(run / "snapshots")
    (run / "result.json").unlink()
    with pytest.raises(RunError, match="has no snapshot yet"):
        events(run)


def test_events_that_ship_packed_are_the_same(mine) -> None:
    run = mine(line(1, 40, 4, [[0, 1, 2, 1, 0.5]]), line(2, 48, 2, []))
    whole, text = events(run), (run / "events.jsonl").read_bytes()
    (run / "events.jsonl").unlink()
    packed = run / "events.jsonl.gz"
    packed.write_bytes(gzip.compress(text))
    got = events_or_recorded(run)
    assert not got.recorded and got.explored.equals(whole.explored)
    for damaged in (packed.read_bytes()[:-9], text, packed.read_bytes()[:20] + b"x" * 40):
        packed.write_bytes(damaged)
        with pytest.raises(RunError, match="events.jsonl.gz cannot be read"):
            events(run)
