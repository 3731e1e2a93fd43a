"""The audit: every planted defect is found, and none is invented on a clean file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovmse.datasets import Audit, audit, load_dataset, write_dataset
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.runs.files import DATA_DIR

SPEC = EnvSpec("2s3z", "smax", n_agents=2, n_actions=4, obs_size=3, state_size=4, episode_limit=20)


def battle(rng: np.random.Generator, length: int = 0, cut: bool = False) -> Episode:
    """Everything is offered; each agent draws at random; half are won."""
    length = 20 if cut else length or int(rng.integers(5, 19))
    return Episode(
        obs=rng.normal(size=(length + 1, 2, 3)).astype(np.float16),
        state=rng.normal(size=(length + 1, 4)).astype(np.float16),
        avail_actions=np.ones((length + 1, 2, 4), np.bool_),
        actions=rng.integers(4, size=(length, 2)).astype(np.uint8),
        reward=rng.normal(size=length).astype(np.float32),
        terminated=not cut,
        won=bool(rng.random() < 0.5) and not cut,
    )


def clean(count: int = 300) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [battle(rng, cut=i % 50 == 0) for i in range(count)]


def audited(tmp_path: Path, battles: list[Episode]) -> Audit:
    """As a reader gets it: through a file."""
    return audit(load_dataset(write_dataset(tmp_path / "x.h5", battles, SPEC, {})))


def without(action: int, agents: tuple[int, ...]) -> Callable[[Episode], Episode]:
    def change(e: Episode) -> Episode:
        actions = e.actions.copy()
        for agent in agents:
            actions[actions[:, agent] == action, agent] = 0
        return replace(e, actions=actions)

    return change


def as_defeat(e: Episode) -> Episode:
    return replace(e, terminated=True, won=False)


rng = np.random.default_rng(5)
PLANTED: dict[str, list[Episode]] = {
    "Too few battles": clean(150),
    "Duplicates": clean(250) * 2,
    "Cut battles": clean() + [battle(rng, cut=True) for _ in range(40)],
    "Time limits marked as ends": clean() + [as_defeat(battle(rng, 20)) for _ in range(10)],
    "No wins": [replace(e, won=False) for e in clean()],
    "Action 3 is missing:": [without(3, (0, 1))(e) for e in clean()],
    "No rewards": [replace(e, reward=0 * e.reward) for e in clean()],
    "Action 2 is missing for agent 2:": [without(2, (1,))(e) for e in clean()],
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found_and_no_other(defect: str, tmp_path: Path) -> None:
    [warning] = audited(tmp_path, PLANTED[defect]).warnings
    assert warning.startswith(defect)


@pytest.mark.parametrize("name", ["Too few battles", "Duplicates", ""])
def test_a_vault_is_audited_alike(name: str, tmp_path: Path) -> None:
    """Who won stands in no vault, and that is no defect."""
    pytest.importorskip("tensorstore", reason="vaults are an extra: tensorstore")
    from ovmse.datasets.vault_writing import write_vault

    battles = PLANTED[name] if name else clean()
    spec = replace(SPEC, task="3m", backend="smac", episode_limit=60)
    of = load_dataset(write_dataset(tmp_path / "3m_x.h5", battles, spec, {}))
    found = audit(load_dataset(write_vault(tmp_path / "3m.vlt" / "X", of, {}))).warnings
    assert [w for w in found if w.startswith(name or "?")] == found[: bool(name)]
    assert len(found) == bool(name), found


def test_few_copies_and_an_unknown_end_hide_nothing(tmp_path: Path) -> None:
    lost = [replace(e, won=False) for e in clean()]
    few = audited(tmp_path, [*lost[:260], *lost[:8], replace(lost[260], won=None)]).warnings
    assert few[0].startswith("Duplicates: 8 of 269 battles are copies of others, so the file says")
    assert few[1].startswith("No wins") and len(few) == 2
    unknown = [replace(e, won=None) for e in lost]
    assert audited(tmp_path, unknown[:200] + lost[200:]).warnings == [], "too few are known"


def test_cut_battles_count_by_their_steps(tmp_path: Path) -> None:
    """As many battles are cut in both files; they are many steps only beside short ones."""
    rng = np.random.default_rng(1)
    cut = [battle(rng, cut=True) for _ in range(10)]
    for length, warned in ((18, False), (5, True)):
        found = audited(tmp_path, [battle(rng, length) for _ in range(300)] + cut)
        assert found.numbers["cut_steps"] == pytest.approx(200 / (200 + 300 * length))
        assert [w[:11] for w in found.warnings] == ["Cut battles"] * warned


@pytest.mark.parametrize(("offered", "warned"), [(199, False), (200, True)])
def test_an_action_that_was_hardly_ever_offered_is_not_missing(
    offered: int, warned: bool, tmp_path: Path
) -> None:
    battles = [without(3, (0, 1))(e) for e in clean()]
    left = offered
    for e in battles:
        steps = min(left, e.length)
        e.avail_actions[steps:, 1, 3] = False
        e.avail_actions[:, 0, 3] = False
        left -= steps
    found = audited(tmp_path, battles)
    assert found.offered[:, 3].tolist() == [0, offered]
    assert [w[:19] for w in found.warnings] == ["Action 3 is missing"] * warned


def test_a_missing_action_is_said_by_its_name(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "x.h5", PLANTED["Action 3 is missing:"], SPEC, {})
    [warning] = audit(load_dataset(path), ["north", "south", "stop", "attack 0"]).warnings
    assert warning.startswith("Action 3 (attack 0) is missing: offered at")


def test_nothing_is_invented_on_a_clean_file(tmp_path: Path) -> None:
    assert audited(tmp_path, clean()).warnings == []


@pytest.mark.slow  # reading two whole files
@pytest.mark.parametrize("name", ["2s3z_medium", "2s3z_medium_replay"])
def test_nothing_is_invented_on_what_ships(name: str) -> None:
    assert audit(load_dataset(DATA_DIR / f"{name}.h5")).warnings == []


def test_the_numbers_are_those_of_a_plain_count(tmp_path: Path) -> None:
    battles = clean(230)
    for e in battles:
        e.avail_actions[-2:, 0] = [True, False, False, False]  # agent 0 dies at last
        e.actions[-1, 0] = 0
    found = audited(tmp_path, battles)
    steps = sum(len(e.reward) for e in battles)
    cut = sum(len(e.reward) for e in battles if not e.terminated)
    assert found.numbers["cut_steps"] == pytest.approx(cut / steps)
    assert found.cut.sum() == 5 and found.lengths.sum() == steps
    for agent in range(2):
        for action in range(4):
            alive = [e.actions[: -1 if agent == 0 else None, agent] for e in battles]
            assert found.taken[agent, action] == sum(int((a == action).sum()) for a in alive)
            assert found.offered[agent, action] == sum(map(len, alive))
    seen: dict[tuple[int, ...], int] = {}
    for e in battles:
        for pair in e.actions.tolist():
            seen[tuple(pair)] = seen.get(tuple(pair), 0) + 1
    assert found.numbers["joint_actions"] == len(seen) == 16
    assert found.numbers["joint_once"] == sum(n == 1 for n in seen.values()) / steps
    assert found.returns == pytest.approx([e.reward.sum() for e in battles], abs=1e-4)


def test_an_unknown_outcome_is_no_defect(tmp_path: Path) -> None:
    found = audited(tmp_path, [replace(e, won=None) for e in clean()])
    assert found.warnings == [] and np.isnan(found.won).all()
    assert found.numbers["win_rate"] is None
