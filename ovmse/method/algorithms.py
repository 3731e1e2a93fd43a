"""The table of algorithms: each is one row, and none has a file of its own.

Only names stand here, so that settings can be read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = ("td", "ovm", "action_proposal")
CQL_FORMS = ("macql", "calibrated", "counterfactual")
EXPLORATIONS = ("epsilon_greedy", "sequential_centralised", "sequential_decentralised")


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What tells one algorithm from another; all share QMIX and one learner.

    label: the name as papers print it.
    pretrained: starts from the offline phase (False: from scratch).
    target: ``td`` (eq. 8), ``ovm`` (eq. 4: at least the offline memory) or ``action_proposal``
    (the better of the online and the frozen offline policy's joint action).
    online_cql: keeps the CQL term online; None means as the task says (paper, section 5.1).
    exploration: the default way to explore (see ``exploration.py``).
    cql_form: the CQL term of both phases (see ``conservatism.py``).
    policy_warmup: before the first update the offline policy fills the buffer.

    The last four are settings too: a Config may choose otherwise.
    """

    label: str
    pretrained: bool = True
    target: str = "td"
    online_cql: bool | None = False
    exploration: str = "epsilon_greedy"
    cql_form: str = "macql"
    policy_warmup: bool = False

    def __post_init__(self) -> None:
        if self.target not in TARGETS:  # by its name each part of the code asks what to do
            raise ValueError(f"target: got {self.target!r}, allowed: {', '.join(TARGETS)}")


# What is not said is as in Switch CQL: pre-trained, TD target, no CQL online, ε-greedy.
ALGORITHMS = {
    "ovmse": Algorithm(
        label="OVMSE", target="ovm", online_cql=None, exploration="sequential_decentralised"
    ),
    "ovm": Algorithm(label="OVM", target="ovm", online_cql=None),
    "se": Algorithm(label="SE", exploration="sequential_decentralised"),
    "switch_cql": Algorithm(label="Switch CQL"),
    "macql": Algorithm(label="MACQL", online_cql=True),
    "macal_ql": Algorithm(label="MACal-QL", online_cql=True, cql_form="calibrated"),
    # Imitation-bootstrapped RL, its target half: acting on the better of two joint actions would
    # need Q_tot, and with it the state, at execution.
    "action_proposal": Algorithm(label="Action proposal", target="action_proposal"),
    "qmix": Algorithm(label="QMIX", pretrained=False),
    # Warm-start RL (arXiv 2412.07762), not in the paper: no offline data is kept online.
    "wsrl": Algorithm(label="WSRL", cql_form="calibrated", policy_warmup=True),
}
