"""The method once more, slowly: float64 loops over episodes, steps and agents, numpy only.

Written from the equations and not from the code under test. Everything also takes complex
numbers (kinks look at the real part), so that ``derivative`` can differentiate by a complex step,
which is exact to machine precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.networks import QFunction

Params = dict[str, np.ndarray]
SMALL = EnvSpec("small", "none", 3, 5, 6, 7, 9)  # 3 agents, 5 actions, obs 6, state 7, limit 9


def random_episode(
    rng: np.random.Generator,
    length: int,
    terminated: bool = True,
    spec: EnvSpec = SMALL,
    memory: bool = False,
) -> Episode:
    """An episode of noise in which every action that is taken was available."""
    avail = rng.random((length + 1, spec.n_agents, spec.n_actions)) < 0.6
    actions = rng.integers(spec.n_actions, size=(length, spec.n_agents))
    np.put_along_axis(avail[:-1], actions[..., None], True, -1)
    avail[-1, :, -1] = True
    return Episode(
        obs=rng.normal(size=(length + 1, spec.n_agents, spec.obs_size)).astype(np.float16),
        state=rng.normal(size=(length + 1, spec.state_size)).astype(np.float16),
        avail_actions=avail,
        actions=actions.astype(np.uint8),
        reward=rng.normal(size=length).astype(np.float32),
        terminated=terminated,
        won=bool(rng.random() < 0.5),
        q_offline=rng.normal(size=length).astype(np.float32) if memory else None,
    )


def mixed_episodes(rng: np.random.Generator, memory: bool = False) -> list[Episode]:
    """Longest first, as a batch sorts them; ended and cut ones of several lengths."""
    shapes = ((6, False), (5, True), (3, False), (2, True), (1, False), (1, True))
    return [random_episode(rng, length, ended, memory=memory) for length, ended in shapes]


def params_of(q: QFunction) -> Params:
    """The weights of a network as float64 arrays, by name."""
    return {name: tensor.numpy().astype(np.float64) for name, tensor in q.state_dict().items()}


def _linear(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def _relu(x: np.ndarray) -> np.ndarray:
    return np.where(x.real > 0, x, 0)


def _absolute(x: np.ndarray) -> np.ndarray:
    return np.where(x.real >= 0, x, -x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def agent_values(p: Params, episode: Episode) -> np.ndarray:
    """``Q_i(tau_i, .)`` of one episode, ``[L+1, N, A]``: each agent by itself, step by step."""
    rows, agents, _ = episode.obs.shape
    actions = episode.avail_actions.shape[-1]
    size = p["agent.gru.weight_hh"].shape[1]
    out = np.zeros((rows, agents, actions), np.result_type(*p.values()))
    for i in range(agents):
        hidden = np.zeros(size, out.dtype)
        for t in range(rows):
            last = np.zeros(actions)
            if t > 0:
                last[episode.actions[t - 1, i]] = 1
            identity = np.zeros(agents)
            identity[i] = 1
            inputs = np.concatenate([episode.obs[t, i].astype(np.float64), last, identity])
            x = _relu(_linear(p, "agent.fc_in", inputs))
            gates_x = p["agent.gru.weight_ih"] @ x + p["agent.gru.bias_ih"]
            gates_h = p["agent.gru.weight_hh"] @ hidden + p["agent.gru.bias_hh"]
            r = _sigmoid(gates_x[:size] + gates_h[:size])
            z = _sigmoid(gates_x[size : 2 * size] + gates_h[size : 2 * size])
            n = np.tanh(gates_x[2 * size :] + r * gates_h[2 * size :])
            hidden = (1 - z) * n + z * hidden
            out[t, i] = _linear(p, "agent.fc_out", hidden)
    return out


def q_tot(p: Params, state: np.ndarray, q_agents: Sequence[complex]) -> complex:
    """``Q_tot`` of one state ``[S]`` and one value per agent (eq. 1, 2)."""
    state = state.astype(np.float64)

    def hypernet(name: str) -> np.ndarray:
        return _linear(p, f"mixer.{name}.2", _relu(_linear(p, f"mixer.{name}.0", state)))

    b1 = _linear(p, "mixer.hyper_b1", state)
    w1 = _absolute(hypernet("hyper_w1")).reshape(len(q_agents), len(b1))
    w2 = _absolute(hypernet("hyper_w2"))
    total = hypernet("hyper_b2")[0]
    for e in range(len(b1)):
        x = b1[e]
        for i, q in enumerate(q_agents):
            x = x + q * w1[i, e]
        total = total + w2[e] * (x if x.real > 0 else np.exp(x) - 1)  # ELU
    return total


def q_tot_taken(p: Params, episode: Episode, values: np.ndarray | None = None) -> np.ndarray:
    """``Q_tot(tau, a)`` of the actions that were taken, ``[L]``."""
    values = agent_values(p, episode) if values is None else values
    return np.array(
        [
            q_tot(p, episode.state[t], [values[t, i, a] for i, a in enumerate(row)])
            for t, row in enumerate(episode.actions)
        ]
    )


def v_next(online: Params, target: Params, episode: Episode) -> np.ndarray:
    """``V_{t+1}`` for t = 0 .. L-1 with double-Q."""
    online_values, target_values = agent_values(online, episode), agent_values(target, episode)
    out = []
    for t in range(1, episode.length + 1):
        chosen = []
        for i, available in enumerate(episode.avail_actions[t]):
            best = max(np.flatnonzero(available), key=lambda a: online_values[t, i, a])
            chosen.append(target_values[t, i, best])
        out.append(q_tot(target, episode.state[t], chosen))
    return np.array(out)


def td_returns(
    reward: np.ndarray, v: np.ndarray, terminated: bool, gamma: float, td_lambda: float
) -> np.ndarray:
    """TD(lambda) of one unpadded episode; ``v[t]`` is ``V_{t+1}``."""
    length = len(reward)
    returns = np.zeros(length + 1)
    values = np.concatenate([[np.nan], v])  # values[t] is V_t; V_0 is never asked for
    if terminated:
        values[length] = 0.0
    returns[length] = values[length]
    for t in reversed(range(length)):
        ahead = (1 - td_lambda) * values[t + 1] + td_lambda * returns[t + 1]
        returns[t] = float(reward[t]) + gamma * ahead
    return returns[:-1]


def logsumexp(values: Sequence[complex]) -> complex:
    top = max(value.real for value in values)
    return top + np.log(sum(np.exp(value - top) for value in values))


def loss(
    p: Params,
    target: Params,
    episodes: Sequence[Episode],
    gamma: float,
    td_lambda: float,
    lambda_memory: float | None = None,
    cql_alpha: float = 0.0,
    samples: np.ndarray | None = None,
    data_action: bool = False,
) -> complex:
    """The loss of one update: eq. 8 or 5, plus alpha times the CQL term (eq. 10).

    samples ``[M, K, N]``: joint actions of the filled steps, episode by episode. The target is a
    constant: it uses the real part of ``p`` alone.
    """
    real = {name: array.real for name, array in p.items()}
    td, cql = [], []
    for episode in episodes:
        values = agent_values(p, episode)
        taken = q_tot_taken(p, episode, values)
        y = td_returns(
            episode.reward, v_next(real, target, episode), episode.terminated, gamma, td_lambda
        )
        for t in range(episode.length):
            if lambda_memory is None:
                td.append((taken[t] - y[t]) ** 2)
            else:
                memory = max(float(episode.q_offline[t]), y[t])
                td.append(
                    (1 - lambda_memory) * (taken[t] - y[t]) ** 2
                    + lambda_memory * (taken[t] - memory) ** 2
                )
            if cql_alpha:
                joint = samples[len(cql)]
                sampled = [
                    q_tot(p, episode.state[t], [values[t, i, a] for i, a in enumerate(row)])
                    for row in joint
                ]
                if data_action:
                    sampled.append(taken[t])
                cql.append(logsumexp(sampled) - taken[t])
    out = sum(td) / len(td)
    return out + cql_alpha * sum(cql) / len(cql) if cql_alpha else out


def derivative(f: Callable[[Params], complex], p: Params, direction: Params) -> float:
    """The derivative of f at p along a direction (tensors that it lacks stand still)."""
    step = 1e-30
    moved = {k: v + 1j * step * direction[k] if k in direction else v for k, v in p.items()}
    return f(moved).imag / step
