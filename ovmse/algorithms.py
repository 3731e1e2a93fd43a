"""The table of algorithms: each is one row, and none has a file of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """What tells one algorithm from another; all share QMIX and one learner.

    pretrained: starts from the offline phase (False: from scratch).
    target: ``td`` (eq. 8), ``ovm`` (eq. 4: at least the offline memory) or ``action_proposal``
    (the better of the online and the frozen offline policy's joint action).
    online_cql: keeps the CQL term online; None means as the task says (paper, section 5.1).
    cql_form: the CQL term of both phases (see ``conservatism.py``).
    exploration: the default way to explore.
    policy_warmup: before the first update the offline policy fills the buffer.

    The last four are settings too: a Config may choose otherwise.
    """

    name: str
    label: str
    pretrained: bool
    target: str
    online_cql: bool | None
    exploration: str
    cql_form: str = "macql"
    policy_warmup: bool = False


_SEQUENTIAL, _EACH = "sequential_decentralised", "epsilon_greedy"

ALGORITHMS = {
    row.name: row
    for row in (
        Algorithm("ovmse", "OVMSE", True, "ovm", None, _SEQUENTIAL),
        Algorithm("ovm", "OVM", True, "ovm", None, _EACH),
        Algorithm("se", "SE", True, "td", False, _SEQUENTIAL),
        Algorithm("switch_cql", "Switch CQL", True, "td", False, _EACH),
        Algorithm("macql", "MACQL", True, "td", True, _EACH),
        Algorithm("macal_ql", "MACal-QL", True, "td", True, _EACH, cql_form="calibrated"),
        # Imitation-bootstrapped RL, its target half: acting on the better of two joint actions
        # would need Q_tot, and with it the state, at execution.
        Algorithm("action_proposal", "Action proposal", True, "action_proposal", False, _EACH),
        Algorithm("qmix", "QMIX", False, "td", False, _EACH),
        # Warm-start RL (arXiv 2412.07762), not in the paper: no offline data is kept online.
        Algorithm(
            "wsrl", "WSRL", True, "td", False, _EACH, cql_form="calibrated", policy_warmup=True
        ),
    )
}
