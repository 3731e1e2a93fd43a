"""Costs and contaminated targets in recorded battles, against the same done one step at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from exploring import climb_run

from analysis.battles import record
from analysis.prices import WINDOW, _error, _groups, _range, by_number, contamination, costs
from analysis.snapshots import Snapshots
from ovmse.episodes import Episode, ExplorationRecord
from ovmse.method.networks import QFunction

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    return Snapshots(climb_run(tmp_path_factory.mktemp("climb")))


def acting(q: QFunction, episode: Episode) -> list[torch.Tensor]:
    """``Q_i`` of each step ``[N, A]``, from the acting network, one step at a time."""
    agents = episode.actions.shape[1]
    hidden, out = torch.zeros(agents, q.hidden_size), []
    last = torch.full((1, agents), -1)
    for t in range(episode.length + 1):
        now, hidden = q.act(torch.tensor(episode.obs[t]).float()[None], last, hidden)
        out.append(now[0])
        if t < episode.length:
            last = torch.tensor(episode.actions[t].astype(int))[None]
    return out


def q_tot(q: QFunction, values: torch.Tensor, joint: list[int], state: np.ndarray) -> float:
    chosen = torch.stack([values[i, a] for i, a in enumerate(joint)])[None]
    return float(q.q_tot(chosen, torch.tensor(state).float()[None]))


@pytest.mark.parametrize("exploration", ["epsilon_greedy", "sequential_centralised"])
def test_costs_by_brute_force(of: Snapshots, exploration: str) -> None:
    at = max(of.files)
    q, battles = of.network(at), record(of.run, at, exploration, 0.6, 12, 1)
    rows = costs(q, battles).itertuples(index=False)
    for number, battle in enumerate(battles, 1):
        episode, who = battle.episode, battle.episode.exploration
        values = acting(q, episode)
        for t, i in zip(*np.nonzero(who.explored)):
            state, greedy = episode.state[t], who.greedy[t].tolist()
            alone = [*greedy]
            alone[i] = int(episode.actions[t, i])
            best = q_tot(q, values[t], greedy, state)
            row = next(rows)
            assert (row.battle, row.step, row.agent) == (number, t, i)
            assert row.cost == pytest.approx(best - q_tot(q, values[t], alone, state), abs=1e-4)
            done = q_tot(q, values[t], episode.actions[t].tolist(), state)
            assert row.all == pytest.approx(best - done, abs=1e-4)
            assert row.at_once == who.explored[t].sum()
            assert row.cost > -1e-5  # the mixer is monotone
            if row.at_once == 1:
                assert row.cost == pytest.approx(row.all, abs=1e-5)
    assert next(rows, None) is None


class Given:
    """A network whose ``V_{t+1}`` is what we say: one agent, one action, ``Q = obs``."""

    def __new__(cls) -> QFunction:
        from ovmse.envs.base import EnvSpec

        q = QFunction(EnvSpec("t", "b", 1, 1, 1, 1, 20), 2, 2, 2).requires_grad_(False)
        q.q_values = lambda batch, inputs=None: batch.obs  # [B, L+1, 1, 1]
        q.frozen_copy = lambda: q
        q.mixer.weights = lambda state: state
        q.mixer.mix = lambda weights, chosen: chosen.squeeze(-1)
        return q


def test_contamination_by_hand(of: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    """λ-returns written out as sums of n-step returns, for battles of values made up."""
    rng, gamma, lam = np.random.default_rng(0), of.config.gamma, of.config.online_td_lambda
    assert 0 < lam < 1
    found: dict[int, list[float]] = {}
    battles = []
    for length, ended in ((9, True), (12, False), (WINDOW, True)):
        value = rng.integers(0, 8, length + 1).astype(float)  # exact in half precision
        reward = rng.random(length).astype(np.float32)
        explored = rng.random((length, 1)) < 0.5
        kind = np.zeros((length, 1))
        battles.append(
            SimpleNamespace(
                episode=Episode(
                    obs=value[:, None, None],
                    state=np.zeros((length + 1, 1)),
                    avail_actions=np.ones((length + 1, 1, 1), bool),
                    actions=np.zeros((length, 1), np.uint8),
                    reward=reward,
                    terminated=ended,
                    exploration=ExplorationRecord(explored, kind, kind),
                )
            )
        )
        value[-1] *= not ended
        for t in range(length - WINDOW):
            left = length - t
            n_step = [
                sum(gamma**j * reward[t + j] for j in range(n)) + gamma**n * value[t + n]
                for n in range(1, left + 1)
            ]
            far = sum((1 - lam) * lam ** (n - 1) * n_step[n - 1] for n in range(1, left))
            far += lam ** (left - 1) * n_step[-1]
            count = int(explored[t + 1 : t + 1 + WINDOW].sum())
            found.setdefault(count, []).append(far - n_step[0])
    got = contamination(Given(), battles, of.config)
    assert got.steps.sum() == sum(map(len, found.values()))
    for row in got.itertuples():
        low, _, high = row.window.partition("–")
        mine = [d for k in range(int(low), int(high or low) + 1) for d in found.get(k, [])]
        assert row.steps == len(mine)
        assert row.mean == pytest.approx(np.mean(mine))


def test_groups_by_hand() -> None:
    def windows(*counts: int) -> list[str]:
        found = pd.Series(counts)
        return [_range(g) for _, g in found.groupby(_groups(found.to_numpy()))]

    assert windows(*[0] * 9, 1, 2, 2, 3, 4, 5, 6, 9)[0] == "0"
    assert windows(0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 9)[:3] == ["0", "1", "2"]
    assert windows(0, 0) == ["0"]
    assert windows(*[0], *[20] * 99, *[21] * 99) == ["0–20", "21"]


def test_a_standard_error_has_battles_as_clusters() -> None:
    """Battles repeated step for step say no more than one step each."""
    values = np.random.default_rng(0).normal(size=50)
    once = pd.DataFrame({"battle": range(50), "difference": values})
    often = pd.concat([once] * 7)
    plain = values.std(ddof=1) / np.sqrt(50)
    assert _error(once) == pytest.approx(plain)
    assert _error(often) == pytest.approx(plain)


def test_quartiles_and_mean_of_the_cost_by_number() -> None:
    paid = pd.DataFrame({"battle": 0, "step": range(5), "at_once": 1, "cost": [1.0, 2, 3, 4, 9],
                          "all": [1.0, 2, 3, 4, 9]})  # fmt: skip
    table = by_number(paid)
    assert table.to_dict("records") == [{"at_once": 1, "events": 5, "low": 2, "median": 3,
                                         "high": 4, "cost": 3.8, "together": 3.8}]  # fmt: skip
    assert list(by_number(paid[:0])) == list(table)
