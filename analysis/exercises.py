"""The exercises of ``00_walkthrough``: each check prints one line, and never raises.

A check gets the reader's `answer`: None prints "not answered yet", a wrong one prints a hint that
names the misconception behind it, a right one says why it is right.
"""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real

from analysis.walkthrough import grids
from analysis.walkthrough.learning import refuse
from ovmse.errors import UserError
from ovmse.method.algorithms import ALGORITHMS, Algorithm

NOT_YET = "not answered yet"


def check_1(answer: object) -> None:
    """What the tables believe (bold, step) is worth at the last ledge, where half of the battles
    are bold together and half step together: a number."""
    _tell(
        answer,
        4,
        {
            -10: "That is the truth, and no battle of the dataset shows it: nobody in it was bold "
            "alone. What do the agents' own tables add up to?",
            20: "That is the guess before learning. Both parts were learned, from (bold, bold) and "
            "from (step, step): only their combination is new.",
            10: "That is the guess for an agent that was never seen. Both parts were learned here.",
            0: "An unseen joint action is not worth 0 to these tables: they add two parts, and "
            "both were learned.",
            5: "5 is what (bold, bold) pays; only agent 1's part of it stands in (bold, step).",
            3: "3 is what (step, step) pays; only agent 2's part of it stands in (bold, step).",
            8: "8 is (bold, bold) and (step, step) together; (bold, step) has one part of each.",
        },
        "Half of 5 and half of 3. The sum has no way to say that bold alone falls.",
        "Add what agent 1's bold contributes to (bold, bold) and agent 2's step to (step, step).",
    )


def check_2(answer: object) -> None:
    """Mean return after 40 online steps at ε = 0.2: "above 15", "5 to 15" or "below 5"."""
    wrong = {
        "above 15": "A random action is rare at ε = 0.2, but one fall teaches both parts of the "
        "joint action: the one that fell, and the partner's that was right.",
        "5 to 15": "It would be, if a fall changed its own cell alone. It changes both of its "
        "parts, and each of them is a part of two other joint actions.",
    }
    right = (
        "By then about seven of ten teams lose: at some ledge one agent is bold and the other not."
    )
    _tell(answer, "below 5", wrong, right, 'Answer "above 15", "5 to 15" or "below 5".')


def check_3(answer: object) -> None:
    """A true memory, noise of σ = 2 around the truth, λ = 0.5: how far the mean target lies above
    the truth: a number, to two digits."""
    lift = 0.5 * 2 / math.sqrt(2 * math.pi)
    wrong = {
        0: "The noise is 0 on average, its maximum with the truth is not: the unlucky draws are "
        "replaced by the memory, the lucky ones stay.",
        round(2 * lift, 2): "That is λ = 1. The target is (1−λ)·y + λ·max(memory, y).",
        1: "λ·σ forgets that only draws above the memory count, and most of them are near it.",
        2: "The noise is σ on either side; the maximum keeps σ/√(2π) of it, less than half.",
    }
    why = "λ·σ/√(2π) = 0.40: more noise, more lift, even where the memory is true."
    _tell(answer, lift, wrong, why, "Set both sliders and read the orange dot.", near=0.005)


def check_4(answer: object) -> None:
    """How many of the nine joint actions are never played if one agent at a time explores (the
    centralised way) and both would step: a whole number."""
    _tell(
        answer,
        4,
        {
            0: "That is ε-greedy. One at a time, the other agent does what it would do anyway.",
            5: "Those are the joint actions that *can* be played: nobody, or either one, explores.",
            8: "One agent at a time may leave (step, step), to either side: those are seen too.",
            1: "(bold, bold) is one of them, and not the only one that needs two to leave at once.",
            2: "Count every joint action in which neither agent steps.",
        },
        "The four in which neither steps, (bold, bold) among them: the best one.",
        "Count the cells of the middle panel that say never.",
    )


def _alike(one: Algorithm, other: Algorithm) -> bool:
    """Whether two rows do the same on the game, where None means no conservative term."""
    first = replace(one, label=other.label, online_cql=bool(one.online_cql))
    return first == replace(other, online_cql=bool(other.online_cql))


def check_5(answer: object) -> None:
    """A tenth algorithm: a row, ``Algorithm(label=..., ...)``, that is none of the nine."""
    if answer is None:
        print(NOT_YET)
    elif wrong := wrong_row(answer):
        print(f"Not yet: {wrong}")
    else:
        print(f"Right: {answer.label} is a row of its own. Watch it below.")  # type: ignore[attr-defined]


def wrong_row(answer: object) -> str | None:
    """Why this is no tenth algorithm that can be watched, in a sentence; None if it is one."""
    if not isinstance(answer, Algorithm):
        return 'an algorithm is a row, such as Algorithm(label="Mine", target="ovm").'
    if not isinstance(answer.label, str) or not answer.label.strip():
        return f'label: got {answer.label!r}, allowed: a word, such as "Mine".'
    try:
        refuse(answer)
    except UserError as error:
        return str(error)
    for known in ALGORITHMS.values():
        if _alike(answer, known):
            return f"that is {known.label} by another name; the label changes nothing."
    if answer.label in grids.known():
        return f"{answer.label} is taken; a chart needs a label of its own."
    return None


ONE_AT_A_TIME = {"OVMSE", "OVMSE without CQL", "SE", "MACQL with SE"}


def check_6(answer: object) -> None:
    """Which of the six shipped runs win more than half of their last test: a collection of their
    names."""
    if answer is None:
        print(NOT_YET)
        return
    names = ONE_AT_A_TIME | {"MACQL", "Switch CQL"}
    try:
        given = {answer} if isinstance(answer, str) else {str(one) for one in answer}  # type: ignore[attr-defined]
    except TypeError:
        given = {""}
    if given - names:
        print(f"Not yet: answer with some of {', '.join(sorted(names))}, such as ['SE'].")
    elif "Switch CQL" in given:
        print("Not yet: all agents explore at once there, and nothing holds the old values.")
    elif "MACQL" in given:
        print("Not yet: the conservative term does not protect from N explorers at once; with the "
              "battles they bring, it even lifts what random agents did.")  # fmt: skip
    elif missing := sorted(ONE_AT_A_TIME - given):
        print(f"Not yet: neither the memory nor the conservative term decides here. How many "
              f"explore at once in {missing[0]}?")  # fmt: skip
    else:
        print("Right: the four that explore about one at a time. Two of them forget first.")


def _tell(
    answer: object,
    right: float | str,
    wrong: dict,
    why: str,
    otherwise: str,
    near: float = 1e-9,
) -> None:
    """The line for an answer: `why` it is right, or the hint of the nearest known mistake."""
    if answer is None:
        print(NOT_YET)
    elif _same(answer, right, near):
        print(f"Right. {why}")
    elif not isinstance(right, str) and not _is_number(answer):
        quotes = ", without quotes" if isinstance(answer, str) else ""
        print(f"Not yet: answer with a number{quotes}; got {answer!r}.")
    else:
        hints = [hint for mistake, hint in wrong.items() if _same(answer, mistake, near)]
        print(f"Not yet: {hints[0] if hints else otherwise}")


def _same(answer: object, value: float | str, near: float) -> bool:
    if isinstance(value, str):
        return isinstance(answer, str) and answer.strip().lower() == value
    return _is_number(answer) and value - near <= answer <= value + near  # type: ignore[operator]


def _is_number(answer: object) -> bool:
    return isinstance(answer, Real) and not isinstance(answer, bool)
