"""How far are the states that a run meets from those of its data? A classifier tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import mannwhitneyu

from analysis.datasets import look
from analysis.diagnostics.calibration import BATTLES
from analysis.each import Runs, each_snapshot, spaced
from analysis.events import epsilon_at, exploring_battles
from analysis.snapshots import Snapshots
from analysis.tables import at_the_end
from ovmse.datasets.dataset import dataset_path
from ovmse.episodes import Episode

L2 = 1e-2  # on the weights, of standardised features: separable classes have no finite weights


def shift(
    runs: Runs, only: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> pd.DataFrame:
    """`auc` of the snapshots that `only` names: how well a logistic classifier of the states tells
    battles in which the snapshot explores, as its run did at that time, from battles of the
    dataset that the run was pre-trained on. 0.5: not at all; 1: without error.

    Raises UserError where the dataset is not on this machine, with the command that makes it.
    """

    @lru_cache(maxsize=1)  # the runs of one map follow each other
    def battles(dataset: str, backend: str) -> list[Episode]:
        episodes = look([dataset], backend)[0].data.episodes
        return [episodes[n] for n in spaced(len(episodes), BATTLES)]

    def file(run: Snapshots) -> Path:
        c = run.config
        return dataset_path(c.task, c.dataset, c.backend)

    def measure(run: Snapshots, env_steps: int) -> dict[str, float]:
        online = [battle.episode for battle in exploring_battles(run, env_steps, seed=seed)]
        return {"auc": told_apart(battles(str(file(run)), run.config.backend), online)}

    def depends(run: Snapshots, env_steps: int) -> list[str | float | Path]:
        c = run.config
        given = [c.task, c.backend, c.exploration, BATTLES, L2, seed]
        given += [float(epsilon_at(c, env_steps))]
        return [run.files[env_steps], file(run), *given]

    return each_snapshot(runs, "occupancy", "Occupancies compared", measure, depends, only)


def told_apart(offline: Sequence[Episode], online: Sequence[Episode]) -> float:
    """The classifier's AUC: fitted on every second battle of both, asked about the others. Steps of
    one battle resemble each other, so they are never on both sides."""
    (fit, fit_is), (ask, ask_is) = (_states(offline[half::2], online[half::2]) for half in (0, 1))
    mean, deviation = fit.mean(0), fit.std(0)
    deviation[deviation == 0] = np.inf  # a feature that never varies says nothing
    weights = _logistic((fit - mean) / deviation, fit_is)
    return auc(((ask - mean) / deviation) @ weights[1:], ask_is)


def _states(offline: Sequence[Episode], online: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    """All states ``[steps, S]`` at which an action was chosen, and which are online ones."""
    parts = [e.state[: e.length].astype(float) for e in (*offline, *online)]
    steps = sum(e.length for e in offline)
    states = np.concatenate(parts)
    return states, np.arange(len(states)) >= steps


def _logistic(x: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Bias and weights ``[1 + S]`` of the logistic regression in which both classes weigh alike."""
    sign = np.where(positive, 1.0, -1.0)
    share = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    x = np.column_stack([np.ones(len(x)), x])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        slope = -share * sign * expit(-margin)
        decay = L2 * np.r_[0.0, w[1:]]
        return share @ np.logaddexp(0, -margin) + 0.5 * decay @ w, x.T @ slope + decay

    return minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive one scores above a negative one, ties counting half."""
    above, below = score[positive], score[~positive]
    return float(mannwhitneyu(above, below).statistic / (len(above) * len(below)))


def who_leaves_the_data(table: pd.DataFrame) -> str:
    """How far from its data each line plays at the end, and at most before."""
    said = [
        f"{name} {r.auc:.2f} (at most {r.auc_max:.2f})"
        for name, r in at_the_end(table, ["auc"]).set_index("name").iterrows()
    ]
    return f"At the end, states are told from the data's with an AUC of {'; '.join(said)}."
