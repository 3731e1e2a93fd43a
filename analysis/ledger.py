"""The drift ledger: which part of a batch moves the opinion of the fixed battles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.battles import Battle, td_target
from analysis.events import lambda_at
from analysis.prices import batched
from analysis.snapshots import Snapshots
from analysis.widgets.progress import tracked
from ovmse.episodes import Episode, EpisodeBatch
from ovmse.method.algorithms import ALGORITHMS
from ovmse.method.learner import Learner
from ovmse.method.networks import QFunction, gather_actions
from ovmse.method.schedules import linear_decay
from ovmse.training.phase import FixedBattles, online_settings

PARTS = ("all", "explored", "greedy")


class MaskedLearner(Learner):
    """A learner whose loss counts some steps of a batch, while histories and targets stay whole.

    The loss is the sum over those steps divided by the number of *all* steps, so that the gradients
    of two parts add up to that of the whole. `gradient`: of the last update, before clipping.
    """

    def masked_update(self, batch: EpisodeBatch, mask: Tensor, **given: object) -> None:
        """As ``Learner.update``, with the loss on `mask` ``[B, L]`` alone (within ``filled``)."""
        self.whole, self.share = batch, float(mask.sum() / batch.filled.sum())
        self.update(replace(batch, filled=mask), **given)  # type: ignore[arg-type]

    def td_target(self, batch, q_values, inputs=None):  # type: ignore[no-untyped-def]
        return super().td_target(self.whole, q_values, inputs)

    def _step(self, loss: Tensor) -> None:
        loss = loss * self.share
        parameters = list(self.q.parameters())
        self.gradient = torch.autograd.grad(loss, parameters, retain_graph=True)
        super()._step(loss)


def ledger(
    of: Snapshots, snapshot: int, battles: Sequence[Battle], batches: int = 4, seed: int = 0
) -> pd.DataFrame:
    """How one update at a snapshot moves `q_fixed`, by the part of the batch it learns from.

    Each of `batches` is drawn from the battles, of the run's batch size or half of them. From the
    snapshot one update is made on all its steps, one on those where somebody explored, one on the
    others: loss as in the run (its memory and conservative term too), rate without warm-up. A
    snapshot holds neither the target network nor Adam's moments: the target is the snapshot itself
    and Adam starts anew, so that a step has about the same length whatever the gradient's. Columns:
    `batch`, `part`, `share` (of the steps), `too_low` (mean ``y - Q_tot`` there), `change` (of
    `q_fixed` after the update) and `first_order` (``-η · g_fixed · g_part``, plain gradient
    descent, whose parts add up).
    """
    config, q = of.config, of.network(snapshot).requires_grad_(True)
    settings = replace(online_settings(config), lr_warmup_updates=0)
    t = max(0, snapshot - config.policy_warmup_steps)
    given = asked(of, snapshot, [b.episode for b in battles])
    if config.cql_anneal is not None:
        given["cql_alpha"] = linear_decay(config.cql_alpha, config.cql_end, config.cql_anneal, t)
    fixed = FixedBattles(of.fixed, config.gamma)
    before, towards = fixed.measure(q)["q_fixed"], fixed_gradient(q, fixed.batch)
    rng, rows = np.random.default_rng(seed), []
    size = min(config.batch_size, len(battles) // 2 or 1)
    for number in tracked(range(batches), "Batches learned from"):
        some = [battles[b] for b in rng.choice(len(battles), size, replace=False)]
        _, episodes, batch = batched(some)
        explored = somebody_explored(episodes, batch)
        off = td_target(q, batch, q.q_values(batch), config) - q.q_tot_taken(batch)
        masks = (batch.filled, explored, batch.filled & ~explored)
        for part, mask in zip(PARTS, masks, strict=True):
            row = {"batch": number, "part": part, "share": float(mask.sum() / batch.filled.sum())}
            if not mask.any():
                rows.append(row | {"too_low": np.nan, "change": 0.0, "first_order": 0.0})
                continue
            row["too_low"] = float(off[mask].mean())
            learner = MaskedLearner(of.network(snapshot).requires_grad_(True), settings, number)
            learner.masked_update(batch, mask, **given)
            moved = sum(float((a * b).sum()) for a, b in zip(towards, learner.gradient))
            row["change"] = fixed.measure(learner.q)["q_fixed"] - before
            rows.append(row | {"first_order": -settings.lr * moved})
    return pd.DataFrame(rows)


def fixed_gradient(q: QFunction, batch: EpisodeBatch) -> tuple[Tensor, ...]:
    """The gradient of the mean ``Q_tot(τ, a)`` over the filled steps, one tensor a parameter."""
    taken = gather_actions(q.q_values(batch)[:, :-1][batch.filled], batch.actions[batch.filled])
    mean = q.q_tot(taken, batch.state[:, :-1][batch.filled]).mean()
    return torch.autograd.grad(mean, list(q.parameters()))


def somebody_explored(episodes: Sequence[Episode], batch: EpisodeBatch) -> Tensor:
    """``[B, L]``: the steps at which any agent explored."""
    out = torch.zeros_like(batch.filled)
    for row, episode in enumerate(episodes):
        assert episode.exploration is not None
        out[row, : episode.length] = torch.from_numpy(episode.exploration.explored.any(1))
    return out


def asked(of: Snapshots, snapshot: int, episodes: Sequence[Episode]) -> dict[str, object]:
    """What the run's target asks of the frozen network is put into the episodes; what
    ``Learner.update`` is to be told of it. Where a run came without the memory's file, the network
    before the first online update stands in for it."""
    config, kind = of.config, ALGORITHMS[of.config.algorithm].target
    batch_of = EpisodeBatch.from_episodes
    if kind == "ovm":
        memory = of.offline()
        for episode in episodes:
            episode.q_offline = memory.q_tot_taken(batch_of([episode]))[0].numpy()
        return {"lambda_memory": lambda_at(config, snapshot)}
    if kind == "action_proposal":
        offline = of.network(min(of.files))  # nothing was learnt online yet
        for episode in episodes:
            episode.proposal = offline.greedy_actions(batch_of([episode]))[0].numpy()
        return {"proposals": True}
    return {}
