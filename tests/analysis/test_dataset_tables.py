"""What 06_datasets says of files, against plain counts; what is missing says how to make it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import chart_tables

from analysis import datasets as tables
from analysis.charts import datasets as charts
from analysis.charts.show import mimebundle
from ovmse.datasets import write_dataset
from ovmse.envs import make_env
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.errors import UserError
from ovmse.method.learner import new_q_function
from ovmse.runs.files import DATA_DIR
from ovmse.training.rollout import collect


def played(seed: int, count: int = 60, epsilon: float = 1.0) -> list[Episode]:
    env = make_env("climb_penalty", "climb", num_envs=4, seed=seed)
    q = new_q_function(env.spec, (4, 4, 4), seed=0)
    return list(collect(q, env, count, np.random.default_rng(seed), epsilon=epsilon))


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> list[tables.Looked]:
    spec = make_env("climb_penalty", "climb", num_envs=1).spec
    folder = tmp_path_factory.mktemp("data")
    paths = [write_dataset(folder / f"{n}.h5", played(n), spec, {}) for n in (1, 2)]
    return tables.look([str(path) for path in paths])


def test_the_overview_is_a_plain_count(looked: list[tables.Looked]) -> None:
    table = tables.overview(looked, gamma=0.9)
    for one, row in zip(looked, table.itertuples(), strict=True):
        episodes = one.data.episodes
        ended = [sum(0.9**t * float(r) for t, r in enumerate(e.reward))
                 for e in episodes if e.terminated]  # fmt: skip
        assert row.value == pytest.approx(np.mean(ended), abs=1e-5)
        assert row.won == np.mean([bool(e.won) for e in episodes])
        assert row.steps == sum(len(e.reward) for e in episodes)
    assert np.isnan(table.joint).all()  # fewer than 1,000 steps


def test_each_agent_s_use_of_an_action_is_a_share_of_where_it_was_offered(
    looked: list[tables.Looked],
) -> None:
    table = tables.action_use(looked).query("dataset == '1'")
    episodes = looked[0].data.episodes
    for n, name in ((0, "1"), (1, "2")):
        rope = table[(table.agent == name) & (table.action == "rope")].iloc[0]
        offered = [(e, t) for e in episodes for t in range(e.length) if e.avail_actions[t, n, 3]]
        assert rope.offered == len(offered) > 0
        assert rope.share == pytest.approx(np.mean([e.actions[t, n] == 3 for e, t in offered]))
    assert table[table.offered > 0].groupby("agent").share.sum().gt(1).all()


def test_a_policy_within_the_data_is_not_outside_and_another_is(
    looked: list[tables.Looked],
) -> None:
    within = tables.outside(looked[0], looked[0].data.episodes[1::2])
    assert within.joint[0] <= 0.01  # climb has nine joint actions, and random play takes all
    alien = played(3, count=4)
    for e in alien:
        e.state[:] = 7.5
    assert tables.outside(looked[0], alien).states[0] == 1
    assert tables.outside(looked[0], alien).states[1] <= 0.05


def test_the_regime_compares_two_means(looked: list[tables.Looked]) -> None:
    mean = float(np.mean([e.episode_return for e in looked[0].data.episodes]))
    for shift, word in ((9, "superior"), (-9, "inferior")):
        episode = played(4, count=1)[0]
        episode.reward[:] = 0
        episode.reward[0] = mean + shift
        said, ours, theirs = tables.regime(looked[0], [episode])
        assert (said, theirs) == (word, pytest.approx(mean))
        assert f"policy is {word}: " in tables.answer(looked, [episode]) and ours == pytest.approx(
            mean + shift
        )
    few = played(4, count=4)
    for e, far in zip(few, (-20, 20, 20, 20)):  # a mean that is far, and four battles that scatter
        e.reward[:] = 0
        e.reward[0] = mean + 0.4 * far
    assert tables.regime(looked[0], few)[0] == "cannot be told"
    assert "better or worse cannot be told: it returns" in tables.answer(looked, few)


def test_a_missing_dataset_says_the_command_that_makes_it() -> None:
    for name, command in (
        ("6h_vs_8z_medium", "`ovmse data make --task 6h_vs_8z --quality medium` makes it in one"),
        ("3s5z_medium_replay", "--task 3s5z --quality medium_replay` makes it in one to three min"),
        ("nothing", "`ovmse data make --help`"),
    ):
        with pytest.raises(UserError, match="there is no dataset") as error:
            tables.look([name])
        assert command in str(error.value)
    for wrong in ("x", [], ["2s3z_medium", ""], [1]):
        with pytest.raises(UserError, match=f"datasets: got {re.escape(repr(wrong))}, allowed: a"):
            tables.look(wrong)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    source, names = DATA_DIR / "2s3z_medium.h5", []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        names.append(str(shutil.copy(source, tmp_path / folder / "x.h5")))
    looked = tables.look([*names, "2s3z_medium"])
    assert [one.name for one in looked] == [n.removesuffix(".h5") for n in names] + ["2s3z_medium"]
    use = tables.action_use(looked)
    assert not use.duplicated(["dataset", "agent", "action"]).any()
    with pytest.raises(UserError, match="got 2s3z_medium twice, allowed: each dataset once"):
        tables.look(["2s3z_medium", "2s3z_medium"])


@pytest.fixture
def starcraft() -> tuple[EnvSpec, list[Episode]]:
    """The map 3m at SMAC's sizes, and two battles in which all stand where they began."""
    sizes = {"n_agents": 3, "n_actions": 9, "obs_size": 30, "state_size": 48, "episode_limit": 60}
    units = np.concatenate([np.tile([1, 0, -0.25, 0], 3), np.tile([1, 0.25, 0], 3)])
    rows = np.tile(np.concatenate([units, np.zeros(27)]), (5, 1)).astype(np.float16)
    battle = Episode(
        obs=np.zeros((5, 3, 30), np.float16), state=rows,
        avail_actions=np.ones((5, 3, 9), np.bool_), actions=np.ones((4, 3), np.uint8),
        reward=np.ones(4, np.float32), terminated=True, won=True,
    )  # fmt: skip
    return EnvSpec("3m", "smac", **sizes), [battle, battle]


def test_files_of_starcraft_are_decoded_without_the_game(
    starcraft: tuple[EnvSpec, list[Episode]], tmp_path: Path
) -> None:
    ours = write_dataset(tmp_path / "own.h5", starcraft[1], starcraft[0], {})
    public = tmp_path / "3m_medium.h5"
    shutil.copy(ours, public)
    with h5py.File(public, "a") as file:
        file.attrs.clear()
    strange = shutil.copy(public, tmp_path / "8m_medium.h5")  # not of that map's sizes
    for one in tables.look([str(ours), str(public)]):
        units = one.some[0].units[0]
        assert one.some[0].agents == ["1 marine", "2 marine", "3 marine"]
        np.testing.assert_allclose(units.position, [[8, 16]] * 3 + [[24, 16]] * 3)
        assert "attack 2" in set(tables.action_use([one]).action)
    (one,) = tables.look([str(strange)])
    assert one.some[0].agents == ["1", "2", "3"] and tables.policy_battles(one) == []


def test_nothing_that_ships_is_compared_with_a_file_of_starcraft(
    starcraft: tuple[EnvSpec, list[Episode]], tmp_path: Path
) -> None:
    as_2s3z = replace(starcraft[0], task="2s3z")  # of which a run on SMAX ships
    (one,) = tables.look([str(write_dataset(tmp_path / "x.h5", starcraft[1], as_2s3z, {}))])
    assert tables.policy_battles(one) == []
    with pytest.raises(UserError, match="docs/starcraft.md says where the public ones are"):
        tables.look(["6h_vs_8z_medium"], backend="smac")


def test_the_charts_hold_every_battle(looked: list[tables.Looked]) -> None:
    table = tables.returns(looked)
    for measure in ("return", "length"):
        held = pd.concat(chart_tables(charts.histograms(table, measure, "x", "y")))
        assert held.battles.sum() == len(table) == 120
    # lengths that no step divides: the longest are those that the time limit cut
    lengths = np.repeat([19, 60, 101], [10, 80, 10])
    long = pd.DataFrame({"dataset": "x", "length": lengths, "end": "lost"})
    long.loc[long.length == 101, "end"] = "cut"
    for greatest in range(60, 240):
        some = long.replace({"length": {101: greatest}})
        held = pd.concat(chart_tables(charts.histograms(some, "length", "x", "y")))
        assert held.groupby("end").battles.sum().to_dict() == {"lost": 90, "cut": 10}
    mimebundle(charts.action_use(tables.action_use(looked)))
    mimebundle(charts.outside(tables.outside(looked[0], looked[1].data.episodes)))


def test_the_policy_is_of_the_dataset_s_task(looked: list[tables.Looked]) -> None:
    assert tables.policy_battles(looked[0]) == []  # no run on climb ships
    assert "no pre-trained policy" in tables.answer(looked, [])
    with pytest.raises(UserError, match="pretrained: the run is of 2s3z, 1 is not"):
        tables.policy_battles(looked[0], "data/runs/2s3z")


def test_a_policy_is_compared_with_its_own_data_alone() -> None:
    (own,) = tables.look(["2s3z_medium"])
    (other,) = tables.look(["2s3z_medium_replay"])
    assert len(tables.policy_battles(own)) == 32
    assert tables.policy_battles(other) == []  # what ships learned from medium
    with pytest.raises(UserError, match="learned from medium, and not from this 2s3z_medium_rep"):
        tables.policy_battles(other, "data/runs/2s3z")
