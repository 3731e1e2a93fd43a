"""The table of algorithms: each is one row, and none has a file of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """What tells one algorithm from another; all share QMIX and one learner.

    pretrained: starts from the offline phase (False: from scratch).
    memory: the target is the OVM target of eq. 4 (False: plain TD).
    online_cql: keeps the CQL term online; None means as the task says (paper, section 5.1).
    exploration: the default way to explore; a setting can change it.
    """

    name: str
    label: str
    pretrained: bool
    memory: bool
    online_cql: bool | None
    exploration: str


_SEQUENTIAL, _EACH = "sequential_decentralised", "epsilon_greedy"

ALGORITHMS = {
    row.name: row
    for row in (
        Algorithm("ovmse", "OVMSE", True, True, None, _SEQUENTIAL),
        Algorithm("se", "SE", True, False, False, _SEQUENTIAL),
        Algorithm("switch_cql", "Switch CQL", True, False, False, _EACH),
        Algorithm("macql", "MACQL", True, False, True, _EACH),
        Algorithm("qmix", "QMIX", False, False, False, _EACH),
    )
}
