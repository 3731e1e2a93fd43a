"""The method once more, slowly: float64 loops over episodes, steps and agents, numpy only.

Written from the equations and not from the code under test. Everything also takes complex
numbers (kinks look at the real part), so that ``derivatives`` can differentiate by a complex
step, which is exact to machine precision. Weights may carry a leading axis, one entry per
direction of a derivative, which then leads every result too (``...`` in the shapes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.method.networks import QFunction

Params = dict[str, np.ndarray]
SMALL = EnvSpec("small", "none", 3, 5, 6, 7, 9)  # 3 agents, 5 actions, obs 6, state 7, limit 9


def random_episode(
    rng: np.random.Generator,
    length: int,
    terminated: bool = True,
    spec: EnvSpec = SMALL,
    memory: bool = False,
    proposal: bool = False,
    deaths: bool = False,
    reward: float = 1.0,
) -> Episode:
    """An episode of noise in which every action that is taken was available.

    With ``deaths`` about half the agents die on the way: from then on they see nothing and have
    action 0 alone. ``reward`` is the scale of the rewards, and of what memory there is.
    """
    rows = (length + 1, spec.n_agents)
    avail = rng.random((*rows, spec.n_actions)) < 0.6
    actions = rng.integers(spec.n_actions, size=rows)
    np.put_along_axis(avail[:-1], actions[:-1, :, None], True, -1)
    avail[-1, :, -1] = True
    obs = rng.normal(size=(*rows, spec.obs_size)).astype(np.float16)
    if deaths:
        for i in range(spec.n_agents):
            dead = slice(int(rng.integers(2 * length + 2)), None)
            obs[dead, i], avail[dead, i], actions[dead, i] = 0, False, 0
            avail[dead, i, 0] = True
    proposed = np.where(avail, rng.random(avail.shape), -1).argmax(-1)  # any available action
    return Episode(
        obs=obs,
        state=rng.normal(size=(length + 1, spec.state_size)).astype(np.float16),
        avail_actions=avail,
        actions=actions[:-1].astype(np.uint8),
        reward=(reward * rng.normal(size=length)).astype(np.float32),
        terminated=terminated,
        won=bool(rng.random() < 0.5),
        q_offline=(reward * rng.normal(size=length)).astype(np.float32) if memory else None,
        proposal=proposed.astype(np.uint8) if proposal else None,
    )


def mixed_episodes(
    rng: np.random.Generator, memory: bool = False, proposal: bool = False
) -> list[Episode]:
    """Longest first, as a batch sorts them; ended and cut ones of several lengths."""
    shapes = ((6, False), (5, True), (3, False), (2, True), (1, False), (1, True))
    return [
        random_episode(rng, length, ended, memory=memory, proposal=proposal)
        for length, ended in shapes
    ]


def params_of(q: QFunction) -> Params:
    """The weights of a network as float64 arrays, by name."""
    return {name: tensor.numpy().astype(np.float64) for name, tensor in q.state_dict().items()}


def _times(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (matrix @ x[..., None])[..., 0]


def _linear(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return _times(p[f"{name}.weight"], x) + p[f"{name}.bias"]


def _relu(x: np.ndarray) -> np.ndarray:
    return np.where(x.real > 0, x, 0)


def _absolute(x: np.ndarray) -> np.ndarray:
    return np.where(x.real >= 0, x, -x)


def _larger(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(np.real(x) >= np.real(y), x, y)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x.real > 0, x, np.exp(np.where(x.real > 0, 0, x)) - 1)


# Networks (eq. 1, 2).


def agent_values(p: Params, episode: Episode) -> np.ndarray:
    """``Q_i(tau_i, .)`` of one episode, ``[..., L+1, N, A]``: each agent by itself, by step."""
    rows, agents, _ = episode.obs.shape
    actions = episode.avail_actions.shape[-1]
    size = p["agent.gru.weight_hh_l0"].shape[-1]
    out = []
    for i in range(agents):
        hidden, values = np.zeros(size), []
        for t in range(rows):
            last = np.zeros(actions)
            if t > 0:
                last[episode.actions[t - 1, i]] = 1
            identity = np.zeros(agents)
            identity[i] = 1
            inputs = np.concatenate([episode.obs[t, i].astype(np.float64), last, identity])
            x = _relu(_linear(p, "agent.fc_in", inputs))
            gates_x = _times(p["agent.gru.weight_ih_l0"], x) + p["agent.gru.bias_ih_l0"]
            gates_h = _times(p["agent.gru.weight_hh_l0"], hidden) + p["agent.gru.bias_hh_l0"]
            r = _sigmoid(gates_x[..., :size] + gates_h[..., :size])
            z = _sigmoid(gates_x[..., size : 2 * size] + gates_h[..., size : 2 * size])
            n = np.tanh(gates_x[..., 2 * size :] + r * gates_h[..., 2 * size :])
            hidden = (1 - z) * n + z * hidden
            values.append(_linear(p, "agent.fc_out", hidden))
        out.append(np.stack(values, -2))
    return np.stack(out, -2)


def q_tot(p: Params, state: np.ndarray, q_agents: Sequence[np.ndarray]) -> np.ndarray:
    """``Q_tot`` of one state ``[S]`` and one value per agent (eq. 1, 2)."""
    return mix(mixing_weights(p, state), q_agents)


def mixing_weights(p: Params, state: np.ndarray) -> tuple[np.ndarray, ...]:
    """Non-negative ``w1 [..., N * E]`` and ``w2 [..., E]``, free ``b1 [..., E]``, ``b2 [...]``."""
    state = state.astype(np.float64)

    def hypernet(name: str) -> np.ndarray:
        return _linear(p, f"mixer.{name}.2", _relu(_linear(p, f"mixer.{name}.0", state)))

    return (
        _absolute(hypernet("hyper_w1")),
        _linear(p, "mixer.hyper_b1", state),
        _absolute(hypernet("hyper_w2")),
        hypernet("hyper_b2")[..., 0],
    )


def mix(weights: tuple[np.ndarray, ...], q_agents: Sequence[np.ndarray]) -> np.ndarray:
    w1, b1, w2, total = weights
    size = b1.shape[-1]
    for e in range(size):
        x = b1[..., e]
        for i, q in enumerate(q_agents):
            x = x + q * w1[..., i * size + e]
        total = total + w2[..., e] * _elu(x)
    return total


def q_tot_taken(p: Params, episode: Episode) -> np.ndarray:
    """``Q_tot(tau, a)`` of the actions that were taken, ``[..., L]``."""
    values = agent_values(p, episode)
    return np.stack(
        [
            q_tot(p, episode.state[t], [values[..., t, i, a] for i, a in enumerate(row)])
            for t, row in enumerate(episode.actions)
        ],
        -1,
    )


def greedy(values: np.ndarray, available: np.ndarray) -> list[int]:
    """Each agent's best available action; values and available ``[N, A]``."""
    return [max(np.flatnonzero(row), key=lambda a: values[i, a]) for i, row in enumerate(available)]


# Targets (eq. 4, 8).


def v_next(online: Params, target: Params, episode: Episode) -> np.ndarray:
    """``V_{t+1}`` for t = 0 .. L-1: double-Q, and the proposal's value where that is larger."""
    online_values, target_values = agent_values(online, episode), agent_values(target, episode)
    out = []
    for t in range(1, episode.length + 1):
        candidates = [greedy(online_values[t], episode.avail_actions[t])]
        if episode.proposal is not None:
            candidates.append(list(episode.proposal[t]))
        out.append(
            max(
                q_tot(target, episode.state[t], [target_values[t, i, a] for i, a in enumerate(row)])
                for row in candidates
            )
        )
    return np.array(out)


def td_returns(
    reward: np.ndarray, v: np.ndarray, terminated: bool, gamma: float, td_lambda: float
) -> np.ndarray:
    """TD(lambda) of one unpadded episode, forward: the n-step returns ``G_n`` weighted by
    ``(1 - lambda) lambda^(n-1)``, the longest by all that remains. ``v[t]`` is ``V_{t+1}``."""
    length, out = len(reward), []
    for t in range(length):
        steps, total = length - t, 0.0
        for n in range(1, steps + 1):
            ended = terminated and n == steps
            n_step = 0.0 if ended else gamma**n * v[t + n - 1]
            n_step += sum(gamma**k * float(reward[t + k]) for k in range(n))
            total += n_step * td_lambda ** (n - 1) * (1 - td_lambda if n < steps else 1)
        out.append(total)
    return np.array(out)


def td_targets(
    online: Params, target: Params, episode: Episode, gamma: float, td_lambda: float
) -> np.ndarray:
    """y ``[L]`` (eq. 8)."""
    v = v_next(online, target, episode)
    return td_returns(episode.reward, v, episode.terminated, gamma, td_lambda)


# Losses (eq. 5, 8, 9, 10).


@dataclass(frozen=True)
class Cql:
    """The CQL term: its form, and what the form needs. samples ``[M, K, N]``: joint actions of
    the filled steps, episode by episode."""

    form: str = "macql"
    samples: np.ndarray | None = None
    data_action: bool = False
    gamma: float = 1.0


def logsumexp(values: Sequence[np.ndarray]) -> np.ndarray:
    top = np.max([np.real(value) for value in values], axis=0)
    return top + np.log(sum(np.exp(value - top) for value in values))


def cql_step(
    cql: Cql, step: int, values: np.ndarray, weights: tuple, episode: Episode, t: int
) -> np.ndarray:
    """The CQL term of one step; values ``[..., N, A]``, step its number in the batch."""
    done = [int(a) for a in episode.actions[t]]

    def mixed(joint: Sequence[int]) -> np.ndarray:
        return mix(weights, [values[..., i, a] for i, a in enumerate(joint)])

    data = mixed(done)
    if cql.form == "counterfactual":
        soft = []
        for i, available in enumerate(episode.avail_actions[t]):
            others = [[*done[:i], a, *done[i + 1 :]] for a in np.flatnonzero(available)]
            soft.append(logsumexp([mixed(joint) for joint in others]))
        return sum(soft) / len(soft) - data
    candidates = [mixed(joint) for joint in cql.samples[step]]
    if cql.data_action:
        candidates.append(data)
    if cql.form == "calibrated":
        later = enumerate(episode.reward[t:])
        floor = sum(cql.gamma**k * float(reward) for k, reward in later)
        candidates = [_larger(candidate, np.array(floor)) for candidate in candidates]
    return logsumexp(candidates) - data


def losses(
    p: Params,
    episodes: Sequence[Episode],
    targets: Sequence[np.ndarray],
    lambda_memory: float | None = None,
    cql: Cql | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """``(L, L_CQL)``: the regression of eq. 8 or 5 onto targets ``[L]``, and the CQL term (0 if
    there is none). A target is a constant: it does not change with ``p``."""
    td, conservative = [], []
    for episode, y in zip(episodes, targets, strict=True):
        values = agent_values(p, episode)
        for t, row in enumerate(episode.actions):
            weights = mixing_weights(p, episode.state[t])
            taken = mix(weights, [values[..., t, i, a] for i, a in enumerate(row)])
            error = (taken - y[t]) ** 2
            if lambda_memory is not None:
                memory = max(float(episode.q_offline[t]), y[t])
                error = (1 - lambda_memory) * error + lambda_memory * (taken - memory) ** 2
            td.append(error)
            if cql is not None:
                now = values[..., t, :, :]
                conservative.append(cql_step(cql, len(conservative), now, weights, episode, t))
    return sum(td) / len(td), sum(conservative) / len(td)


# Derivatives.


def directions(p: Params, rng: np.random.Generator, along_all: int = 3) -> Params:
    """Directions ``[D, ...]``: one along each tensor alone, then some along all at once."""
    count = len(p) + along_all
    out = {}
    for number, (name, tensor) in enumerate(p.items()):
        out[name] = rng.normal(size=(count, *tensor.shape))
        out[name][: len(p)] *= (np.arange(len(p)) == number).reshape(-1, *[1] * tensor.ndim)
    return out


def derivatives(f: Callable[[Params], np.ndarray], p: Params, along: Params) -> np.ndarray:
    """The derivatives ``[..., D]`` of f ``[..., D]`` at p along ``directions``."""
    step = 1e-30
    return f({name: p[name] + 1j * step * along[name] for name in p}).imag / step
