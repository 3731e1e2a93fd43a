"""What each phase does with its settings, how a run explores, and each phase used by itself."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import SMALL, write_climb_dataset

from ovmse import Config, finetune, pretrain, train
from ovmse.errors import UserError
from ovmse.method import learner as method
from ovmse.method.learner import Learner
from ovmse.runs.directory import RunDirectory
from ovmse.runs.sharing import pretrain_directory

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_climb_dataset(tmp_path / "climb.h5"))


def config(data: str, **changes: Any) -> Config:
    given = {**SMALL, "task": "climb_monotone", "dataset": data, **changes}
    return Config.from_parameters(**given)


# The share of steps at which none of the two agents explores, one, and both.
EACH = (0.6 * 0.6, 2 * 0.4 * 0.6, 0.4 * 0.4)
SEQUENTIAL = (0.8 * 0.8, 2 * 0.2 * 0.8, 0.2 * 0.2)
AT_MOST_ONE = (0.6, 0.4, 0.0)


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ({"algorithm": "switch_cql"}, EACH),
        ({"algorithm": "se"}, SEQUENTIAL),
        ({"algorithm": "qmix", "exploration": "sequential_centralised"}, AT_MOST_ONE),
    ],
)
def test_a_run_explores_as_its_row_or_its_setting_says(
    data: str, tmp_path: Path, given: dict[str, str], shares: tuple[float, ...]
) -> None:
    """At a constant epsilon of 0.4, counted in what the run left; nobody dies on a climb."""
    constant = {"epsilon_start": 0.4, "epsilon_end": 0.4}
    seldom = {"test_interval": 4_000, "episodes_per_update": 64}
    list(train(config(data, **given, **constant, **seldom), tmp_path / "run"))
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    steps, at_once, by_agent = 0, Counter(), Counter()
    for battle in map(json.loads, lines):
        explorers = Counter(t for t, *_ in battle["explored"])
        at_once += Counter(explorers[t] for t in range(battle["length"]))
        by_agent += Counter(agent for _, agent, *_ in battle["explored"])
        steps += battle["length"]
    assert steps > 3_900 and set(at_once) <= {0, 1, 2}

    def assert_share(count: int, share: float) -> None:
        assert abs(count - steps * share) <= 4 * np.sqrt(steps * share * (1 - share))

    for number, share in enumerate(shares):
        assert_share(at_once[number], share)
    for agent in range(2):
        assert_share(by_agent[agent], shares[1] / 2 + shares[2])


def test_each_phase_learns_with_its_own_settings(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen at the updates of a run: rate, TD(lambda), copies to the target, weight of the CQL term.

    The term is made so large that the loss tells its weight.
    """
    seen: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    lambdas: list[float] = []
    update, td_target = Learner.update, method.td_target

    def listen(self: Learner, *given: Any) -> dict[str, float]:
        stats = update(self, *given)
        pairs = zip(self.q.parameters(), self.target.parameters())
        copied = all(torch.equal(a, b) for a, b in pairs)
        rate, alpha = self.optimizer.param_groups[0]["lr"], round(stats["loss"] / 1e5, 2)
        phase = "online" if len(given) > 1 else "offline"
        seen[phase].append((rate, lambdas.pop(), copied, alpha))
        assert not lambdas
        return stats

    def listen_target(*given: Any) -> torch.Tensor:
        lambdas.append(given[-1])
        return td_target(*given)

    monkeypatch.setattr(Learner, "update", listen)
    monkeypatch.setattr(Learner, "cql", lambda *_: torch.tensor(1e5))
    monkeypatch.setattr(method, "td_target", listen_target)
    offline = {"offline_updates": 12, "offline_lr": 2e-3, "offline_td_lambda": 0.3}
    online = {"online_lr": 1e-4, "online_td_lambda": 0.9, "lr_warmup_updates": 4}
    intervals = {"offline_target_interval": 5, "online_target_interval": 3}
    given = {**offline, **online, **intervals, "cql_alpha": 0.4, "online_cql": False}
    c = config(data, **given, online_steps=800)
    list(train(c, tmp_path / "run"))
    assert len(seen["offline"]) == 12 and len(seen["online"]) > 20
    for u, got in enumerate(seen["offline"]):
        rate = 2e-3 * (12 - u) / 12  # falls to 0, which would be the rate of update 13
        assert got == (pytest.approx(rate), 0.3, u + 1 in (5, 10), 0.4), u
    for u, got in enumerate(seen["online"]):
        rate = 1e-4 * min(u + 1, 4) / 4
        assert got == (pytest.approx(rate), 0.9, (u + 1) % 3 == 0, 0.0), u


def left_by(run: Path) -> dict[str, Any]:
    """Everything that a run measured and stored, but for the wall time."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = [*run.glob("snapshots/*"), *run.glob("fixed.h5"), run / "events.jsonl"]
    kept: dict[str, Any] = {file.name: file.read_bytes() for file in files}
    return kept | {"rows": [{n: v for n, v in row.items() if n != "wall_s"} for row in rows]}


@pytest.mark.parametrize("algorithm", ["ovmse", "qmix"])
def test_the_phases_by_themselves_make_the_run_that_train_makes(
    data: str, tmp_path: Path, algorithm: str
) -> None:
    c = config(data, algorithm=algorithm, online_steps=1_200)
    whole = list(train(c, tmp_path / "whole" / "run"))
    pretrained = None
    if algorithm == "ovmse":
        pretrained = tmp_path / "its own pre-training"
        assert [e.done for e in pretrain(c, pretrained) if e.row] == [30]
        shared = left_by(pretrain_directory(c, tmp_path / "whole"))
        assert len(shared) > 4 and left_by(pretrained) == shared
    with RunDirectory(tmp_path / "alone", c.model_dump()) as run:
        events = list(finetune(c, run, pretrained))
        assert run.finished
    assert [e.done for e in events] == [e.done for e in whole if e.phase == "online"]
    assert len(left_by(tmp_path / "alone")) == 6  # four snapshots, the events and the rows
    assert left_by(tmp_path / "alone") == left_by(tmp_path / "whole" / "run")


def test_who_needs_a_pre_training_is_refused_without_one(data: str, tmp_path: Path) -> None:
    c = config(data, algorithm="ovmse")
    with RunDirectory(tmp_path / "run", c.model_dump()) as run:
        with pytest.raises(UserError, match="ovmse starts from a pre-training, and none is given"):
            next(finetune(c, run, None))
        with pytest.raises(UserError, match="nowhere"):
            next(finetune(c, run, tmp_path / "nowhere"))
