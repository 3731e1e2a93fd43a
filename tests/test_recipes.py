"""Settings that belong together: QMIX's own recipe, phases of settings, the fading CQL term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps import SMALL, write_climb_dataset

from ovmse import Config, train
from ovmse.config import PHASES, PRESETS, SCRATCH, TASKS, phase
from ovmse.envs import MAPS, make_env
from ovmse.episodes import EpisodeBatch
from ovmse.ladders import LADDER_TRAINING, ladder_config
from ovmse.method.algorithms import ALGORITHMS
from ovmse.method.learner import Learner, new_q_function
from ovmse.runs.reading import read_metrics
from ovmse.training.phase import FixedBattles
from ovmse.training.rollout import collect

pytestmark = pytest.mark.slow

make = Config.from_parameters


@pytest.mark.parametrize("task", LADDER_TRAINING)
def test_qmix_has_one_recipe_in_every_preset_and_in_the_ladders(task: str) -> None:
    recipe = {**SCRATCH, **TASKS[task]["scratch"]}
    for preset in ("quick", "paper"):
        config = make(algorithm="qmix", task=task, preset=preset)
        assert config.model_dump().items() >= recipe.items()
    quick, ladder = make(algorithm="qmix", task=task), ladder_config(task, 0)
    differs = {n for n in Config.model_fields if getattr(quick, n) != getattr(ladder, n)}
    assert differs == {"online_steps", "test_interval", "test_battles", "long_test_battles"}
    for name, row in ALGORITHMS.items():
        if row.pretrained:
            assert make(algorithm=name, task=task).online_lr == 3e-4
    tiny = make(algorithm="qmix", task=task, preset="tiny")
    small = {n: v for n, v in PRESETS["tiny"].items() if "warmup" not in n}
    assert tiny.model_dump().items() >= small.items() and tiny.online_lr == 5e-4


def test_each_setting_says_which_phase_it_decides() -> None:
    phases = {name: phase(name) for name in Config.model_fields}
    assert set(phases.values()) == set(PHASES)
    assert set(make().pretraining) == {n for n, p in phases.items() if p in ("offline", "both")}
    neither = {n for n, p in phases.items() if p == "neither"}
    assert neither == {"preset", "continue_with_other_code"}


def test_the_maps_are_those_that_the_battles_have() -> None:
    make_env("3m", num_envs=1).close()  # imports JaxMARL as the environment does
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    fixed = {name for name in MAP_NAME_TO_SCENARIO if not name.startswith("smacv2")}
    assert set(MAPS["smax"]) == fixed
    assert make(task="27m_vs_30m").backend == "smax" and not make(task="3m").online_cql


def test_the_conservative_term_can_fade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha falls from 0.4 to 0.1 over 1,000 environment steps and stays."""
    data = str(write_climb_dataset(tmp_path / "climb.h5"))
    base: dict[str, Any] = {**SMALL, "algorithm": "macql", "task": "climb_monotone",
                            "dataset": data, "cql_alpha": 0.4, "online_steps": 2_000}  # fmt: skip
    seen: list[float | None] = []
    update = Learner.update

    def listen(self: Learner, batch: EpisodeBatch, *given: float | None) -> dict[str, float]:
        if given:  # the online phase
            seen.append(given[1])
        return update(self, batch, *given)

    monkeypatch.setattr(Learner, "update", listen)
    list(train(make(**base), tmp_path / "stays"))
    assert set(seen) == {None}
    assert not any("cql_weight" in row for row in read_metrics(tmp_path / "stays"))
    seen.clear()
    list(train(make(**base, cql_anneal=1_000, cql_end=0.1), tmp_path / "fades"))
    weights = [weight for weight in seen if weight is not None]
    assert len(weights) == len(seen) > 50 and weights == sorted(weights, reverse=True)
    assert weights[0] > 0.3 and weights[-1] == 0.1
    rows = [r for r in read_metrics(tmp_path / "fades") if r["phase"] == "online"]
    for row in rows:
        expected = max(0.1, 0.4 - 0.3 * row["env_steps"] / 1_000)
        assert row["cql_weight"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"online_cql": False, "cql_anneal": 9},
            "cql_anneal: got 9, allowed: none without o",
        ),
        ({"cql_anneal": 9, "cql_end": 0.6}, "cql_end: got 0.6, allowed: at most cql_alpha = 0.5"),
    ],
)
def test_what_cannot_fade_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**given)


def test_only_battles_that_ended_are_like_for_like() -> None:
    """Against a loop in float64, over random battles of which some are cut by the limit."""
    env = make_env("climb_monotone", "climb", 8)
    q = new_q_function(env.spec, (8, 4, 8), 0)
    episodes = list(collect(q, env, 60, np.random.default_rng(0), epsilon=1.0))
    for episode in episodes[::3]:
        episode.terminated = False  # as if the time limit had cut it
    found = FixedBattles(episodes, 0.9).measure(q)
    ended = [e for e in episodes if e.terminated]
    for names, chosen in ((("q_fixed", "mc_fixed"), episodes), (("q_ended", "mc_ended"), ended)):
        values, returns = [], []
        for episode in chosen:
            one = q.q_tot_taken(EpisodeBatch.from_episodes([episode]))[0].double().numpy()
            for t in range(episode.length):
                later = episode.reward[t:].astype(np.float64)
                returns.append(sum(0.9**k * r for k, r in enumerate(later)))
                values.append(one[t])
        assert found[names[0]] == pytest.approx(np.mean(values), abs=1e-5)
        assert found[names[1]] == pytest.approx(np.mean(returns), abs=1e-9)
    for episode in episodes:
        episode.terminated = False
    assert FixedBattles(episodes, 0.9).measure(q).keys() == {"q_fixed", "mc_fixed"}
