"""The battle player: what is drawn at a step against the battle's own arrays; packing; sizes."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import vl_convert
from browser import write_notebook
from conftest import ROOT

from analysis.battles import AT_ONCE, Battle, Opinion, record, record_with
from analysis.charts.player import LIMIT, player
from analysis.charts.player.field import initials
from analysis.charts.player.packing import ALPHABET, codes, flags, numbers
from analysis.charts.player.parts import FIELD, OURS, RING, THEIRS, TOP
from analysis.charts.player.view import view
from analysis.charts.show import VEGA, vega_mimebundle
from analysis.moments import Moments, deepest_fall, moment, valued
from analysis.report import write_report
from analysis.snapshots import Snapshots
from analysis.whatif import WhatIf
from ovmse.config import Config
from ovmse.envs import make_env
from ovmse.envs.base import Units
from ovmse.episodes import Episode, ExplorationRecord
from ovmse.errors import UserError
from ovmse.method.learner import new_q_function

pytestmark = pytest.mark.slow

RUN = Snapshots(ROOT / "data/runs/2s3z/ovmse")


@pytest.fixture(scope="module")
def seen() -> Moments:
    # As many at once as changes are tried at once: the simulator is compiled for one number alone.
    recorded = record(RUN.run, 10_000, "epsilon_greedy", 0.15, battles=AT_ONCE, seed=1)
    return valued(RUN, 10_000, recorded[:2])


@pytest.fixture(scope="module")
def spec(seen) -> dict:
    return seen.player("A title").spec


def drawn(spec: dict, **signals: object) -> str:
    """The picture as SVG with other values of its signals."""
    changed = json.loads(json.dumps(spec))
    for signal in changed["signals"]:
        if signal["name"] in signals:
            signal["value"] = signals[signal["name"]]
    return vl_convert.vega_to_svg(changed)


def texts(svg: str) -> list[str]:
    found = re.findall(r"<t(?:ext|span)[^>]*>([^<]+)<", svg)
    return [text.replace("\N{MINUS SIGN}", "-") for text in found]


class Mark(NamedTuple):
    """A mark of the picture and where it is, in pixels from the upper left; of a bar its middle
    and how wide it is."""

    x: float
    y: float
    width: float
    text: str
    look: dict[str, str]


def marks(svg: str) -> list[Mark]:
    """Every mark that is seen, in the order of drawing."""

    def walk(node: ElementTree.Element, x: float, y: float) -> None:
        moved = re.match(r"translate\((.*?),(.*?)\)", node.get("transform", ""))
        x, y = (x + float(moved[1]), y + float(moved[2])) if moved else (x, y)
        if not len(node) and node.get("opacity") != "0":
            bar = re.match(r"M([\d.-]+),[\d.-]+h([\d.]+)", node.get("d", ""))
            left, width = map(float, bar.groups()) if bar else (0, 0)
            out.append(Mark(x + left + width / 2, y, width, node.text or "", dict(node.attrib)))
        for child in node:
            walk(child, x, y)

    out: list[Mark] = []
    walk(ElementTree.fromstring(svg), -5, -5)  # the padding
    return out


def places(found: list[Mark]) -> np.ndarray:
    return np.array([(m.x, m.y) for m in found]).reshape(-1, 2)


def after(found: list[str], beginning: str) -> float:
    [value] = [m[1] for t in found if (m := re.fullmatch(rf"{re.escape(beginning)} (\S+)", t))]
    return float(value)


@pytest.mark.parametrize("step", [0, 20, -1])
def test_a_step_shows_its_values_actions_and_available_bars(seen, spec, step) -> None:
    battle, opinion = seen.battles[0], seen.opinions[0]
    step %= battle.episode.length
    svg = drawn(spec, step=step)
    found, episode = texts(svg), battle.episode
    assert f"Step {step} of {episode.length}. " in " ".join(found)
    for name, of in (
        ("Q_tot", "q_tot"), ("offline memory", "memory"), ("TD(λ) target", "td_target"),
        ("return-to-go", "returns"),
    ):  # fmt: skip
        assert after(found, name) == pytest.approx(getattr(opinion, of)[step], abs=0.011)
    taken = [battle.actions[a] for a in episode.actions[step]]
    first = found.index("5 zealot") + 1
    assert found[first : first + 5] == taken
    cells = re.search(r'<g class="mark-rect role-mark cell".*?</g>', svg, re.S)
    assert cells and cells[0].count("<path") == episode.avail_actions[step].sum()
    explored = episode.exploration.explored[step]
    said = [f"{battle.agents[i]} {taken[i]}" for i in np.flatnonzero(explored)]
    [status] = [t for t in found if t.startswith("Step ")]
    assert all(text in status for text in said) and ("Nobody" in status) == (not said)


def telling_steps(battle: Battle) -> list[int]:
    """Before anybody falls an explorer that strays beside an attack, and one that takes the greedy
    action; and one that strays beside an attack after somebody fell."""
    episode = battle.episode
    who = episode.exploration
    off = episode.actions != who.greedy
    strays = (who.explored & off).any(1) & (episode.actions > 4).any(1)
    agrees = (who.explored & ~off).any(1)
    fallen = np.array([(units.health <= 0).any() for units in battle.units[:-1]])
    first, lucky, last = map(np.flatnonzero, (strays & ~fallen, agrees, strays & fallen))
    return [int(first[0]), int(lucky[0]), int(last[-1])]


@pytest.mark.parametrize("number", [0, 1])
def test_units_ring_and_attack_lines_are_where_the_arrays_say(seen, spec, number) -> None:
    battle = seen.battles[number]
    for t in telling_steps(battle):
        found = marks(drawn(spec, battle=number + 1, step=t))
        units, (x, y, half) = battle.units[t], view(battle)[t]
        place = FIELD * (units.position - (x - half, y - half)) / (2 * half)
        place[:, 1] = TOP + FIELD - place[:, 1]  # north is up
        alive = np.flatnonzero(units.health > 0)
        bodies = [m for m in found if m.look.get("stroke") == "white"]
        assert [m.look["fill"] for m in bodies] == [OURS if u < 5 else THEIRS for u in alive]
        assert places(bodies) == pytest.approx(place[alive], abs=0.2)
        healths = [
            m.width for m in found if "fill" in m.look and m.look.get("d", "")[:8] == "M-11,-17"
        ]
        assert healths[::2] == [22] * len(alive)  # the whole of each bar, faint
        assert healths[1::2] == pytest.approx(22 * units.health[alive], abs=22 / 80 + 1e-6)

        rings = [m for m in found if m.look.get("stroke") == RING and m.y < TOP + FIELD]
        explorers = np.flatnonzero(battle.episode.exploration.explored[t])
        assert places(rings) == pytest.approx(place[explorers], abs=0.2)

        lines = [m for m in found if m.look.get("stroke-width") == "2.5" and "x2" in m.look]
        taken = battle.episode.actions[t]
        attackers = np.flatnonzero(taken > 4)
        assert places(lines) == pytest.approx(place[attackers], abs=0.2)
        ends = [m._replace(x=float(m.look["x2"]), y=float(m.look["y2"])) for m in lines]
        # Five actions come before those that attack, and five agents before the enemies.
        target = place[taken[attackers]]
        assert places(ends) == pytest.approx(0.8 * (target - place[attackers]), abs=0.2)


@pytest.mark.parametrize("number", [0, 1])
def test_taken_and_greedy_actions_stand_under_their_names(seen, spec, number) -> None:
    battle = seen.battles[number]
    who = battle.episode.exploration
    for t in telling_steps(battle):
        found = marks(drawn(spec, battle=number + 1, step=t))
        names = ["north", "east", "south", "west", "stop", "0", "1", "2", "3", "4"]
        first = next(n for n, m in enumerate(found) if m.text == "north")
        heads = found[first : first + 10]
        assert [m.text for m in heads] == names
        agents = [next(m.y for m in found if m.text == name) for name in battle.agents]

        def columns(of: list[Mark], heads: list[Mark] = heads) -> list[int]:
            return [int(np.abs([m.x - h.x for h in heads]).argmin()) for m in of]

        greedy = [m for m in found if m.look.get("d", "").startswith("M0,3.354L")]
        assert columns(greedy) == who.greedy[t].tolist()
        assert [m.y for m in greedy] == pytest.approx(agents, abs=16)
        taken = [m for m in found if m.look.get("fill-opacity") == "1" and m.width]
        assert columns(taken) == battle.episode.actions[t].tolist()
        assert [m.look["fill"] for m in taken] == [THEIRS if e else OURS for e in who.explored[t]]


def test_a_change_shows_what_the_table_of_changes_says(seen, spec) -> None:
    """Of an agent other than the first, in the second battle, and within the stated precision."""
    battle, table = seen.battles[1], seen.what_ifs[1]
    steps = np.flatnonzero(battle.episode.avail_actions[:-1, 2].sum(-1) > 3)
    t, i = steps[len(steps) // 2], 2
    taken = battle.episode.actions[t, i]
    a = next(a for a in np.flatnonzero(battle.episode.avail_actions[t, i]) if a != taken)
    found = texts(drawn(spec, battle=2, step=int(t), agent=i + 1, action=int(a) + 1))
    assert (
        f"3 zealot did {battle.actions[taken]}. What if it had done {battle.actions[a]}?" in found
    )
    values = [table.q_agents, table.q_tot, table.memory, table.td_target, table.ovm_target]
    first = found.index("OVM target max(y, memory)") + 1
    shown = np.array([float(v) for v in found[first : first + 15]]).reshape(3, 5)
    was, would = (np.array([v[t, i, x] for v in values]) for x in (taken, a))
    assert shown[0] == pytest.approx(was, abs=0.003)
    assert shown[1] == pytest.approx(would, abs=0.003)
    assert shown[2] == pytest.approx(would - was, abs=0.005)


def test_an_action_that_is_not_available_has_no_values(seen, spec) -> None:
    assert not seen.battles[0].episode.avail_actions[0, 0, 9]
    found = texts(drawn(spec, step=0, agent=1, action=10))
    assert "This action is not available here." in found and "–" in found


def test_after_the_last_step_the_end_is_seen(seen, spec) -> None:
    last = seen.battles[0].episode.length
    found = texts(drawn(spec, step=last))
    over = "is won" if seen.battles[0].episode.won else "is lost"
    assert any(t.startswith(f"Step {last} of {last}") and over in t for t in found)
    living = int((seen.battles[0].units[-1].health > 0).sum())
    assert found.count("×") == 10 - living


def test_it_begins_paused_at_the_first_event_and_names_its_signals(seen, spec) -> None:
    signals = {s["name"]: s for s in spec["signals"]}
    assert {"playing", "speed", "due", "step", "t", "battle", "agent", "action"} <= signals.keys()
    assert signals["playing"]["value"] is False
    episode = seen.battles[0].episode
    strayed = (episode.actions != episode.exploration.greedy).any(1)
    assert signals["step"]["value"] == seen.start == np.flatnonzero(strayed)[0]
    assert "$schema" not in spec and spec["description"].startswith("A title. The units")
    assert spec["width"] + 2 * spec["padding"] + 38 <= 700  # 38: the menu of the chart


def test_two_players_never_share_an_identity(seen) -> None:
    ids = [re.search(r"(player-\w+-\d+)-step", json.dumps(seen.player().spec))[1] for _ in "12"]
    assert len(set(ids)) == 2


def size(spec: dict) -> int:
    return len(json.dumps(spec, ensure_ascii=False).encode())


def test_it_shows_as_vega_and_a_picture_alone_and_a_battle_is_small(seen, tmp_path) -> None:
    one = Moments(seen.battles[:1], seen.opinions[:1], seen.what_ifs[:1]).player().spec
    assert size(one) <= LIMIT and size(seen.player().spec) - size(one) <= LIMIT / 3
    bundle = vega_mimebundle(one)
    assert set(bundle) == {VEGA, "image/png"}
    file = write_notebook(tmp_path / "a.ipynb", "x", outputs={0: [bundle]})
    assert file.stat().st_size <= 2 * LIMIT  # with its picture, and a line for each value
    page = write_report(file, tmp_path / "a.html").read_text()
    assert page.count('<figure class="chart" data-mode="vega">') == 1
    assert 'alt="A battle, step by step. The units of both teams' in page
    assert page.count("window.vegaEmbed=") == 1


def test_numbers_come_back_within_half_a_step_and_the_rest_exactly(rng) -> None:
    values = rng.normal(3, 20, (7, 11))
    packed = numbers(values)
    places = np.array([ALPHABET.index(c) for c in packed["text"]]).reshape(-1, 2)
    got = packed["low"] + packed["step"] * (places @ [len(ALPHABET), 1])
    assert np.abs(got - values.ravel()).max() <= packed["step"] / 2 * (1 + 1e-9)
    assert packed["step"] == pytest.approx(np.ptp(values) / (88**2 - 1))
    assert len(ALPHABET) == 88 and not set(ALPHABET) & set("\"\\<>&' ")
    whole = rng.integers(0, 88, (4, 5))
    assert [ALPHABET.index(c) for c in codes(whole)] == whole.ravel().tolist()
    bits = rng.random((3, 2, 13)) < 0.5
    text = flags(bits)
    for row, one in enumerate(bits.reshape(6, 13)):
        chars = [ALPHABET.index(c) for c in text[3 * row : 3 * row + 3]]
        assert [chars[n // 6] >> n % 6 & 1 for n in range(13)] == one.astype(int).tolist()
    assert numbers(np.full(3, 2.5))["text"] == "!!" * 3
    with pytest.raises(ValueError, match="finite"):
        numbers(np.array([np.nan]))


def test_every_living_unit_is_within_the_view(seen) -> None:
    for battle in seen.battles:
        for units, (x, y, half) in zip(battle.units, view(battle), strict=True):
            place = units.position[units.health > 0]
            assert np.abs(place - (x, y)).max(initial=0) < half


def test_names_of_units_are_as_short_as_can_be() -> None:
    assert initials(["marauder", "marine", "medivac"]) == {
        "marauder": "Mara", "marine": "Mari", "medivac": "Me",
    }  # fmt: skip
    assert initials(["stalker", "zealot"]) == {"stalker": "S", "zealot": "Z"}


def test_the_table_of_a_moment_is_what_the_arrays_say(seen) -> None:
    battle, opinion, episode = seen.battles[0], seen.opinions[0], seen.battles[0].episode
    table = seen.moment(8)
    names = [*(["north", "east", "south", "west", "stop"]), *(f"attack {n}" for n in range(5))]
    for i, row in enumerate(table.itertuples()):
        assert row.agent == f"{i + 1} {'stalker' if i < 2 else 'zealot'}"
        assert row.action == names[episode.actions[8, i]]
        assert row.explored == episode.exploration.explored[8, i]
        assert row.health == pytest.approx(battle.units[8].health[i])
        assert row.q_taken == opinion.q_agents[8, i, episode.actions[8, i]]
        free = np.where(episode.avail_actions[8, i], opinion.q_agents[8, i], -np.inf)
        assert row.q_greedy == pytest.approx(free.max(), abs=1e-3)
        assert row.q_tot == opinion.q_tot[8] and row.returns == opinion.returns[8]
    assert len(table) == 5
    last = episode.length
    with pytest.raises(UserError, match=f"step: got {last}, allowed: 0 to {last - 1}"):
        moment(battle, opinion, last)


def test_without_decoded_units_there_are_curves_and_a_sentence() -> None:
    config = Config(task="climb_penalty", backend="climb", algorithm="qmix")
    q = new_q_function(make_env("climb_penalty", "climb").spec, (8, 4, 8), 0)
    battles = record_with(q, config, "epsilon_greedy", 1.0, 8, 0)
    battle = max(battles, key=lambda b: b.episode.length)  # the shortest end at once
    steps = battle.episode.length
    values = np.arange(steps * 8.0).reshape(steps, 2, 4)
    opinion = Opinion(values, *(np.arange(steps) * n for n in (1.0, 2.0, 3.0, 4.0)))
    table = WhatIf(values, values, values, values, None)
    found = texts(drawn(player([battle], [opinion], [table]).spec, step=1))
    assert "decoded: no picture of the battle." in found
    assert after(found, "return-to-go") == 4 and "TD(0) target y" not in found
    assert "leap" in found and "attack enemy" not in found


def by_hand(agents: int, enemies: int, steps: int) -> tuple[Battle, Opinion, WhatIf]:
    """A battle of arrays alone; nobody falls, and a third of the actions are available."""
    rng, units = np.random.default_rng(0), agents + enemies
    actions = 5 + enemies
    avail = rng.random((steps + 1, agents, actions)) < 0.33
    avail[..., 4] = True
    episode = Episode(
        obs=np.zeros((steps + 1, agents, 1)), state=np.zeros((steps + 1, 1)),
        avail_actions=avail, actions=np.full((steps, agents), 4, np.uint8),
        reward=np.zeros(steps, np.float32), terminated=True, won=None,
        exploration=ExplorationRecord(*np.zeros((3, steps, agents), np.uint8)),
    )  # fmt: skip
    team, kinds = (np.arange(units) >= agents).astype(int), ("marine",) * units
    states = [Units(team, kinds, rng.random((units, 2)), np.ones(units)) for _ in range(steps + 1)]
    names = tuple(f"move {n}" for n in range(5)) + tuple(f"attack {n}" for n in range(enemies))
    values = rng.random((steps, agents, actions))
    opinion = Opinion(values, *rng.random((4, steps)))
    battle = Battle(episode, states, [], action_names=names)
    return battle, opinion, WhatIf(values, values, values, values, values)


@pytest.mark.parametrize(("agents", "enemies", "panel"), [(5, 6, True), (10, 11, False)])
def test_a_long_battle_of_large_teams_keeps_within_the_limit(agents, enemies, panel) -> None:
    """The panel is kept where there is room for it; 10m_vs_11m is drawn without, and says so."""
    battle, opinion, table = by_hand(agents, enemies, 100)
    spec = player([battle], [opinion], [table]).spec
    found = texts(drawn(spec, step=3))
    assert f"{agents} marine" in found and size(spec) <= LIMIT
    assert ("Q_tot of the offline memory" in found) == panel
    said = " ".join(t for t in found if "left out" in t or "choose" in t)
    why = (
        r"The what-if panel is left out: a battle of 10 agents and 100 steps would take \d\d kB of "
        r"a file, allowed: 60 kB; choose a shorter battle or a smaller map\."
    )
    assert said == "" if panel else re.fullmatch(why, said)


def test_the_longest_battle_that_shipped_runs_gave_keeps_its_panel() -> None:
    """6h_vs_8z to the time limit: three agents run away, with many actions to the end."""
    of = Snapshots(ROOT / "data/runs/6h_vs_8z/macql")
    recorded = record(of.run, 60_000, battles=AT_ONCE)
    longest = max(recorded, key=lambda b: b.episode.avail_actions[:-1].sum())
    assert longest.episode.length > 100 and longest.episode.avail_actions[:-1].sum() > 2_000
    spec = valued(of, 60_000, [longest]).player("MACQL (seed 50) after 60,000 steps").spec
    assert size(spec) <= LIMIT and "agent" in {s["name"] for s in spec["signals"]}


def test_what_does_not_fit_is_refused_with_one_sentence() -> None:
    battle, opinion, table = by_hand(2, 2, 4)
    other = dataclasses.replace(opinion, q_tot=opinion.q_tot[:-1])
    with pytest.raises(UserError, match="at least one battle"):
        player([], [])
    with pytest.raises(UserError, match="opinions: got 0 for 1 battles"):
        player([battle], [])
    with pytest.raises(UserError, match="what_ifs: got 2 for 1 battles"):
        player([battle], [opinion], [table, table])
    with pytest.raises(UserError, match="their steps differ"):
        player([battle], [other])
    with pytest.raises(UserError, match="of one task"):
        player([battle, by_hand(3, 2, 4)[0]], [opinion] * 2)
    said = "the player is left out: a battle of 27 agents and 100 steps .*; choose a shorter battle"
    with pytest.raises(UserError, match=said):
        player(*([one] for one in by_hand(27, 30, 100)[:2]))


def test_the_drawing_needs_no_jax() -> None:
    code = "import sys; import analysis.charts.player; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_the_deepest_fall_is_that_of_the_run_that_lost_most() -> None:
    runs = [str(RUN.run), str(RUN.run.parent / "se")]
    rows = [
        (runs[0], 0, 0.9, 1.0), (runs[0], 4_000, 0.1, np.nan), (runs[0], 10_000, 0.5, 1.0),
        (runs[1], 0, 0.6, 1.0), (runs[1], 10_000, 0.3, 1.0), (runs[1], 30_000, 0.1, 1.0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["run", "env_steps", "test_win_rate", "q_fixed"])
    table = table.assign(algorithm=["ovmse"] * 3 + ["se"] * 3)
    of, at = deepest_fall(table.assign(phase="online"))  # no snapshot where the first is lowest
    assert (of.config.algorithm, at) == ("se", 30_000)
    table.loc[2, "test_win_rate"] = 0.44  # lost half of its wins, and has a memory
    of, at = deepest_fall(table.assign(phase="online"))
    assert (of.config.algorithm, at) == ("ovmse", 10_000)
    with pytest.raises(UserError, match="no run has a snapshot after its start"):
        deepest_fall(table[table.env_steps == 0].assign(phase="online"))
