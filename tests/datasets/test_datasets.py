"""Dataset files: what is written, what is read back, and what every unusable file says."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovmse.datasets import (
    Dataset,
    dataset_statistics,
    hdf5,
    hdf5_writing,
    load_dataset,
    write_card,
    write_dataset,
)
from ovmse.datasets.dataset import DatasetError
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.runs.files import DATA_DIR

SPEC = EnvSpec("2s3z", "smax", n_agents=3, n_actions=4, obs_size=5, state_size=7, episode_limit=6)
ARRAYS = ("obs", "state", "avail_actions", "actions", "reward")
PROVENANCE = {"command": "ovmse data make", "seed": 3}


def battle(
    rng: np.random.Generator,
    length: int,
    terminated: bool = True,
    won: bool | None = True,
    spec: EnvSpec = SPEC,
) -> Episode:
    rows, agents = (length + 1, spec.n_agents), range(spec.n_agents)
    avail = rng.random((*rows, spec.n_actions)) < 0.4
    actions = rng.integers(spec.n_actions, size=(length, spec.n_agents))
    for t in range(length):
        for agent in agents:
            avail[t, agent, actions[t, agent]] = True
    avail[length, :, 1] = True
    return Episode(
        obs=rng.normal(size=(*rows, spec.obs_size)).astype(np.float16),
        state=rng.normal(size=(length + 1, spec.state_size)).astype(np.float16),
        avail_actions=avail,
        actions=actions.astype(np.uint8),
        reward=rng.normal(size=length).astype(np.float32),
        terminated=terminated,
        won=won,
    )


def battles(*lengths: int, seed: int = 0) -> list[Episode]:
    """Battles of these lengths; every second one is cut by the time limit."""
    rng = np.random.default_rng(seed)
    return [battle(rng, n, terminated=i % 2 == 0, won=i % 2 == 0) for i, n in enumerate(lengths)]


def assert_same(read: list[Episode], expected: list[Episode]) -> None:
    assert len(read) == len(expected)
    for got, want in zip(read, expected):
        for name in ARRAYS:
            a, b = getattr(got, name), getattr(want, name)
            assert a.dtype == b.dtype and a.shape == b.shape, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        assert (got.terminated, got.won) == (want.terminated, want.won)
        assert type(got.terminated) is bool and type(got.won) in (bool, type(None))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "some.h5", battles(2, 6, 1, 4), SPEC, PROVENANCE)


def edit(path: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(path, "r+") as stored:
        change(stored)
    return path


def put(path: Path, name: str, values: Any) -> None:
    """Replaces an array of the file, whatever its shape and type were."""

    def change(stored: h5py.File) -> None:
        if name in stored:
            del stored[name]
        stored[name] = values

    edit(path, change)


def get(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as stored:
        return stored[name][:]


def refusal(path: str | Path, spec: EnvSpec | None = None) -> str:
    """The message of the DatasetError, checked to be one sentence that names the file."""
    with pytest.raises(DatasetError) as caught:
        load_dataset(path, spec)
    message = str(caught.value)
    assert "\n" not in message and Path(path).name in message
    return message


# What lies on disk, read by plain h5py loops.


def test_the_layout_on_disk(tmp_path: Path) -> None:
    given_battles = battles(2, 6, 1, 4)
    given_battles[2].won = None
    path = write_dataset(tmp_path / "deep" / "x.h5", given_battles, SPEC, PROVENANCE)
    with h5py.File(path) as stored:
        n, rows, agents = 4, 7, 3
        expected = {
            "state": ((n, rows, 7), "float32"),
            "obs": ((n, rows, agents, 5), "float32"),
            "actions": ((n, rows, agents, 1), "int64"),
            "avail_actions": ((n, rows, agents, 4), "int32"),
            "reward": ((n, rows, 1), "float32"),
            "terminated": ((n, rows, 1), "uint8"),
            "filled": ((n, rows, 1), "int64"),
            "won": ((n,), "uint8"),
        }
        assert {k: (v.shape, v.dtype.name) for k, v in stored.items()} == expected
        assert list(stored["won"]) == [1, 0, 255, 0]
        for i, b in enumerate(given_battles):
            end = b.length
            for t in range(rows):
                real, step = t <= end, t < end
                assert stored["filled"][i, t, 0] == real
                assert stored["terminated"][i, t, 0] == (t == end - 1 and b.terminated)
                assert stored["reward"][i, t, 0] == (b.reward[t] if step else 0)
                for k in range(agents):
                    assert stored["actions"][i, t, k, 0] == (b.actions[t, k] if step else 0)
                    for a in range(4):
                        avail = real and b.avail_actions[t, k, a]
                        assert stored["avail_actions"][i, t, k, a] == avail
                    for o in range(5):
                        assert stored["obs"][i, t, k, o] == (b.obs[t, k, o] if real else 0)
                for s in range(7):
                    assert stored["state"][i, t, s] == (b.state[t, s] if real else 0)
        # Half precision leaves the low 13 bits of a float32 zero, which is why it compresses.
        assert not (stored["obs"][:].view(np.uint32) & 0x1FFF).any()
        assert stored["obs"].compression == "gzip" and stored["obs"].shuffle
        attrs = dict(stored.attrs)
    assert attrs == {
        "format": "ovmse-1",
        "task": "2s3z",
        "backend": "smax",
        "n_agents": 3,
        "n_actions": 4,
        "obs_size": 5,
        "state_size": 7,
        "episode_limit": 6,
        "episodes": 4,
        "transitions": 13,
        "command": "ovmse data make",
        "seed": 3,
    }


def test_the_same_battles_give_the_same_bytes(tmp_path: Path) -> None:
    a = write_dataset(tmp_path / "a.h5", battles(*[3] * 40), SPEC, {"a": 1, "b": "x"})
    b = write_dataset(tmp_path / "b.h5", iter(battles(*[3] * 40)), SPEC, {"b": "x", "a": 1})
    assert a.read_bytes() == b.read_bytes()


# Round trips.

one_battle = st.tuples(st.integers(1, 6), st.booleans(), st.sampled_from([None, True, False]))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(one_battle, min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    scale=st.integers(1, 40),
)
def test_what_is_written_is_read_back(
    kinds: list[tuple[int, bool, bool | None]],
    seed: int,
    scale: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    wanted = [battle(rng, *kind) for kind in kinds]
    for b in wanted:  # from subnormal to the largest half
        b.obs = (b.obs.astype(np.float64) * 2.0 ** (scale - 25)).clip(-65504, 65504)
        b.obs = b.obs.astype(np.float16)
    path = tmp_path_factory.mktemp("round") / "x.h5"
    write_dataset(path, wanted, SPEC, {})
    assert_same(load_dataset(path, SPEC).episodes, wanted)


def test_dataset_describes_the_file(file: Path) -> None:
    dataset = load_dataset(file)
    assert isinstance(dataset, Dataset) and dataset.path == file
    sizes = (dataset.n_agents, dataset.n_actions, dataset.obs_size, dataset.state_size)
    assert sizes == (3, 4, 5, 7)
    assert (dataset.episode_limit, dataset.transitions) == (6, 13)
    assert dataset.checksum == hashlib.sha256(file.read_bytes()).hexdigest()
    assert dataset.attrs["seed"] == 3 and type(dataset.attrs["seed"]) is int
    assert type(dataset.attrs["task"]) is str


@pytest.mark.parametrize("read_bytes", [1, 40_000, 2**25])
def test_block_borders_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    wanted = battles(*(1 + i % 6 for i in range(2 * hdf5_writing.CHUNK_EPISODES + 5)))
    path = write_dataset(tmp_path / "x.h5", wanted, SPEC, {})
    monkeypatch.setattr(hdf5, "READ_BYTES", read_bytes)
    assert_same(load_dataset(path).episodes, wanted)
    monkeypatch.setattr(hdf5, "READ_BYTES_MAX", read_bytes)  # less than a chunk at a time
    assert_same(load_dataset(path).episodes, wanted)


def test_neither_way_holds_the_padded_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, obs_size=60, episode_limit=150)
    count = 10 * hdf5_writing.CHUNK_EPISODES
    padded = count * 151 * 3 * 60 * 4
    monkeypatch.setattr(hdf5, "READ_BYTES", 2**18)

    def stream() -> Iterator[Episode]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield battle(rng, 2, spec=spec)

    def write() -> None:
        write_dataset(tmp_path / "x.h5", stream(), spec, {})

    def load() -> None:
        kept = load_dataset(tmp_path / "x.h5").episodes
        # A view would keep its whole block in memory.
        assert all(getattr(e, name).base is None for e in kept for name in ARRAYS)

    for work in (write, load):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < padded / 3, work.__name__


# Writing is all or nothing.


def test_a_failed_write_leaves_the_old_file(file: Path) -> None:
    before, beside = file.read_bytes(), os.listdir(file.parent)

    def failing() -> Iterator[Episode]:
        yield from battles(*[2] * 50)
        assert file.read_bytes() == before  # not replaced before it is whole
        raise RuntimeError("the battles broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write_dataset(file, failing(), SPEC, {})
    with pytest.raises(DatasetError, match="no episodes"):
        write_dataset(file, [], SPEC, {})
    assert file.read_bytes() == before and os.listdir(file.parent) == beside


def change_first(**changes: Any) -> list[Episode]:
    first, *others = battles(2, 3)
    return [*others, replace(first, **changes)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.zeros(0, np.float32)}, "episode 1 has 0 steps, allowed: 1 to 6"),
        ({"reward": np.zeros(7, np.float32)}, "episode 1 has 7 steps, allowed: 1 to 6"),
        (
            {"state": np.zeros((2, 7), np.float16)},
            r"episode 1: state has shape \(2, 7\), 2s3z on smax needs \(3, 7\)",
        ),
        ({"obs": np.zeros((3, 3, 9), np.float16)}, r"needs \(3, 3, 5\)"),
        ({"actions": np.zeros((3, 3), np.uint8)}, r"actions has shape \(3, 3\)"),
        ({"reward": np.array([0, np.nan], np.float32)}, "episode 1, step 1: reward is nan"),
        ({"obs": np.full((3, 3, 5), 70000.0)}, "obs is 70000.0, allowed: -65504 to 65504"),
        ({"actions": np.full((2, 3), 4, np.uint8)}, "takes action 4, allowed: 0 to 3"),
        ({"avail_actions": np.zeros((3, 3, 4), bool)}, "agent 0 has no available action"),
    ],
)
def test_battles_that_do_not_fit_are_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "x.h5", change_first(**changes), SPEC, {})
    assert not list(tmp_path.iterdir())


def test_an_unavailable_action_is_not_written(tmp_path: Path) -> None:
    wrong = battles(2, 3)
    wrong[1].avail_actions[2, 1] = [True, False, False, False]
    wrong[1].actions[2, 1] = 2
    with pytest.raises(DatasetError, match=r"episode 1, step 2: agent 1 takes action 2, which"):
        write_dataset(tmp_path / "x.h5", wrong, SPEC, {})


def test_provenance_is_kept_as_attributes(tmp_path: Path) -> None:
    provenance = {
        "text": "ε-greedy | β",
        "whole": -3,
        "share": 0.25,
        "flag": True,
        "numpy": np.float32(0.5),
        "nested": {"policies": [1, 2]},
    }
    path = write_dataset(tmp_path / "x.h5", battles(2), SPEC, provenance)
    attrs = load_dataset(path).attrs
    assert json.loads(attrs["nested"]) == provenance["nested"]
    assert {k: attrs[k] for k in provenance if k != "nested"} == {
        "text": "ε-greedy | β",
        "whole": -3,
        "share": 0.25,
        "flag": True,
        "numpy": 0.5,
    }


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"seed": None}, "provenance: 'seed' is None, allowed: text, numbers"),
        ({"made_by": Path("x")}, "provenance: 'made_by' is .*, allowed: text, numbers"),
        ({"nested": [object()]}, "provenance: 'nested' is not JSON"),
        ({"task": "3s5z"}, "provenance: 'task' is set from the task and the episodes"),
        ({"episodes": 9}, "provenance: 'episodes' is set from"),
        ({"huge": 2**70}, "provenance: 'huge' cannot be an HDF5 attribute"),
        ({"text": "a\0b"}, "provenance: 'text' cannot be an HDF5 attribute"),
    ],
)
def test_provenance_that_is_no_attribute(
    tmp_path: Path, provenance: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "x.h5", battles(2), SPEC, provenance)
    assert not list(tmp_path.iterdir())


def test_what_does_not_lie_in_the_file_is_refused(file: Path, tmp_path: Path) -> None:
    """HDF5 reads zeros for what a virtual array, one in files of its own or one that was never
    written lacks, and lists no array whose link leads nowhere."""
    with h5py.File(file) as stored:
        shape, dtype = stored["reward"].shape, stored["reward"].dtype
        whole = {name: stored[name][:] for name in stored}
    source = tmp_path / "elsewhere.h5"
    with h5py.File(source, "w") as other:
        other["reward"] = whole.pop("reward")
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(source.name, "reward", shape)
    virtual = tmp_path / "virtual.h5"
    with h5py.File(virtual, "w") as out:
        for name, array in whole.items():
            out[name] = array
        out.create_virtual_dataset("reward", layout)
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as out:
        for name, array in whole.items():
            out[name] = array
        out["reward"] = h5py.ExternalLink(source.name, "reward")
    for name in ("raw", "empty"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as out:
            for key, array in whole.items():
                out[key] = array
            where = [(str(tmp_path / "bytes"), 0, h5py.h5f.UNLIMITED)] if name == "raw" else None
            out.create_dataset("reward", shape, dtype, external=where)
    for path in (virtual, tmp_path / "raw.h5"):
        assert "reward is put together from parts of other files" in refusal(path)
    assert "reward was never written" in refusal(tmp_path / "empty.h5")
    assert load_dataset(linked).transitions == load_dataset(file).transitions
    source.unlink()
    assert "reward lies in elsewhere.h5, which lacks it" in refusal(linked)


def test_an_availability_that_is_no_number_is_refused(file: Path) -> None:
    def change(stored: h5py.File) -> None:
        avail = stored["avail_actions"][:].astype(np.float32)
        avail[1, 0, 1, 2] = np.nan
        del stored["avail_actions"]
        stored["avail_actions"] = avail

    assert "episode 1, step 0: avail_actions of agent 1 is not a number" in refusal(
        edit(file, change)
    )


def test_what_is_no_regular_file_is_called_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    assert refusal(tmp_path / "pipe.h5").endswith("pipe.h5 is not a regular file")


# Names and paths.


def test_names_are_looked_up_in_the_data_folder(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("ovmse.datasets.dataset.DATA_DIR", file.parent)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "some").write_text("a stray file of the same name")
    assert load_dataset("some").path == file
    assert load_dataset("some.h5").path == file
    assert load_dataset(str(file)).path == file
    write_dataset(elsewhere / "some.h5", battles(5), SPEC, {})
    assert load_dataset("some.h5").transitions == 5, "a file that is named comes first"

    assert f"there is no dataset 'other': {file.parent} holds some (" in refusal("other")
    monkeypatch.setattr("ovmse.datasets.dataset.DATA_DIR", elsewhere / "none")
    assert "none holds no dataset (" in refusal("other")


def test_the_data_folder_can_be_chosen() -> None:
    """Of datasets: what else ships is where it was."""
    looked = (
        "from analysis import notebook, results; print(len(results.paper(1)) > 0, notebook.SHIPPED)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"from ovmse.runs.files import DATA_DIR; print(DATA_DIR); {looked}"],
        env={**os.environ, "OVMSE_DATA": "/some/where"},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["/some/where", "True", str(ROOT / "data/runs")]


@pytest.mark.skipif("OVMSE_DATA" in os.environ, reason="another data folder was chosen")
def test_the_data_folder_is_the_repository_s() -> None:
    assert ROOT / "data" == DATA_DIR


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x.h5").endswith("x.h5 does not exist")
    assert "is a folder, neither an HDF5 file nor a vault" in refusal(tmp_path)


# Files that are not whole, or not datasets.


@pytest.mark.parametrize("content", [b"", b"some text\n" * 400, b"\x89HDF", b"PK\x03\x04" * 99])
def test_other_files_are_not_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert refusal(path).endswith("x.h5 is not an HDF5 file")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "x.h5").write_bytes(pickle.dumps(Trap()))
    assert "is not an HDF5 file" in refusal(tmp_path / "x.h5")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.7, 0.99, 0.99999])
def test_a_truncated_file_says_so(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: max(int(len(content) * share), 8)])
    assert "some.h5 is damaged or cut short (" in refusal(file)


@pytest.mark.parametrize("name", hdf5.AXES)
def test_a_damaged_chunk_says_so(file: Path, name: str) -> None:
    with h5py.File(file) as stored:
        chunk = stored[name].id.get_chunk_info(0)
    content = bytearray(file.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 4] = bytes(255 - c for c in content[middle : middle + 4])
    file.write_bytes(content)
    assert "is damaged or cut short (" in refusal(file)


@pytest.mark.parametrize("name", hdf5.AXES)
def test_a_missing_array_is_named(file: Path, name: str) -> None:
    edit(file, lambda stored: stored.__delitem__(name))
    assert f"some.h5 lacks {name} (needed: state, obs, " in refusal(file)
    edit(file, lambda stored: stored.create_group(name))
    assert f"some.h5 lacks {name} (" in refusal(file)


def test_an_hdf5_file_without_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w"):
        pass
    assert "lacks state, obs, avail_actions, actions, reward, terminated, filled (" in refusal(
        tmp_path / "x.h5"
    )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("state", (4, 7), "state has shape (4, 7), needed: [N, T, S]"),
        ("obs", (4, 6, 3, 5), "needed: [N, T, n, O] with N = 4, T = 7 like the other arrays"),
        ("obs", (4, 7, 2, 5), "avail_actions has shape (4, 7, 3, 4), needed: [N, T, n, A] with"),
        ("actions", (4, 7, 3, 4), "actions has shape (4, 7, 3, 4), needed: [N, T, n, 1]"),
        ("actions", (4, 7, 2), "actions has shape (4, 7, 2), needed: [N, T, n, 1] with"),
        ("reward", (3, 7, 1), "reward has shape (3, 7, 1), needed: [N, T, 1] with N = 4"),
        ("filled", (4, 7, 2), "filled has shape (4, 7, 2), needed: [N, T, 1]"),
        ("terminated", (), "terminated has shape (), needed: [N, T, 1]"),
    ],
)
def test_shapes_that_disagree(file: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    put(file, name, np.zeros(shape))
    assert message in refusal(file)


def test_arrays_without_content(file: Path) -> None:
    put(file, "obs", get(file, "obs")[..., :0])
    assert refusal(file).endswith("some.h5: O is 0 in [N, T, n, O] of obs, needed: 1 or more")
    for name in hdf5.AXES:
        put(file, name, get(file, name)[:0])
    assert refusal(file).endswith("some.h5 holds no episodes")
    put(file, "state", h5py.Empty("f4"))
    assert "state has shape None" in refusal(file)


def test_arrays_of_text(file: Path) -> None:
    put(file, "reward", np.full((4, 7, 1), b"x"))
    assert "reward holds |S1, allowed: numbers" in refusal(file)


def test_a_later_format_is_refused(file: Path) -> None:
    edit(file, lambda stored: stored.attrs.__setitem__("format", "ovmse-2"))
    assert "has format 'ovmse-2', known: 'ovmse-1'" in refusal(file)


# Values that cannot be used. Episodes of `file` have 2, 6, 1 and 4 steps.


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("obs", (1, 3, 2, 0), np.nan, "episode 1, step 3: obs is nan, allowed: -65504 to 65504"),
        ("obs", (0, 2, 0, 0), np.inf, "episode 0, step 2: obs is inf"),
        ("state", (3, 4, 6), -1e6, "episode 3, step 4: state is -1000000.0, allowed: -65504"),
        ("reward", (1, 5, 0), np.inf, "episode 1, step 5: reward is inf"),
        ("actions", (3, 2, 1, 0), 4, "episode 3, step 2: agent 1 takes action 4, allowed: 0 to 3"),
        ("actions", (3, 2, 1, 0), -1, "takes action -1"),
        ("actions", (3, 2, 1, 0), 2**40, "takes action 1099511627776"),
        ("avail_actions", (1, 6, 2), 0, "episode 1, step 6: agent 2 has no available action"),
        ("filled", (3, 1, 0), 0, "episode 3: filled is not a run of ones followed by zeros"),
        ("filled", (2, 6, 0), 1, "episode 2: filled is not a run of ones"),
        ("filled", 3, 0, "episode 3: filled marks no step"),
        ("filled", (3, slice(1, None)), 0, "episode 3: filled marks no step"),
        ("filled", (1, 2, 0), 2, "episode 1: filled is neither 0 nor 1"),
        ("terminated", (2, 1, 0), 3, "episode 2: terminated is neither 0 nor 1"),
        ("terminated", (3, 2, 0), 1, "episode 3: filled goes on for more than one row after"),
    ],
)
def test_unusable_values(file: Path, name: str, index: Any, value: float, message: str) -> None:
    values = get(file, name)
    values[index] = value
    put(file, name, values)
    assert message in refusal(file)


@pytest.mark.parametrize("name", ["filled", "terminated"])
def test_a_mark_that_is_nan(file: Path, name: str) -> None:
    values = get(file, name).astype(np.float64)
    values[2, 1, 0] = np.nan
    put(file, name, values)
    assert f"episode 2: {name} is neither 0 nor 1" in refusal(file)


@pytest.mark.parametrize("value", [1.5, np.nan])
def test_actions_that_are_not_whole(file: Path, value: float) -> None:
    actions = get(file, "actions").astype(np.float64)
    actions[1, 4, 2] = value
    put(file, "actions", actions)
    assert f"episode 1, step 4: agent 2 takes action {value}, allowed: 0 to 3" in refusal(file)


def test_an_unavailable_action_is_located(file: Path) -> None:
    avail, actions = get(file, "avail_actions"), get(file, "actions")
    avail[3, 1, 2, actions[3, 1, 2, 0]] = 0
    avail[3, 1, 2, (actions[3, 1, 2, 0] + 1) % 4] = 1
    put(file, "avail_actions", avail)
    assert "episode 3, step 1: agent 2 takes action" in refusal(file)
    assert "which is not available" in refusal(file)


def test_padding_may_hold_anything(file: Path) -> None:
    wanted = load_dataset(file).episodes
    beyond = get(file, "filled")[..., 0] == 0
    for name, value in (("obs", np.nan), ("state", 1e9), ("reward", np.nan), ("actions", 99)):
        values = get(file, name)
        values[beyond] = value
        put(file, name, values)
    terminated = get(file, "terminated")
    terminated[beyond] = 1
    put(file, "terminated", terminated)
    assert_same(load_dataset(file).episodes, wanted)


# Files of another task.


def test_another_task_names_both_sizes(file: Path) -> None:
    message = refusal(file, replace(SPEC, task="3s5z", n_agents=8, obs_size=205))
    assert "it has 3 agents, 4 actions, observations of 5, states of 7" in message
    assert "3s5z on smax has 8 agents, 4 actions, observations of 205, states of 7" in message


def test_the_same_sizes_of_another_task(file: Path) -> None:
    assert "is of 2s3z on smax, asked for: 2s3z on climb" in refusal(
        file, replace(SPEC, backend="climb")
    )


def test_longer_battles_than_the_task_has(file: Path) -> None:
    assert "episode 1 has 6 steps, 2s3z on smax allows 5" in refusal(
        file, replace(SPEC, episode_limit=5)
    )
    assert len(load_dataset(file, replace(SPEC, episode_limit=9)).episodes) == 4
    write_dataset(file, battles(2, 4), SPEC, {})  # more padding than battles
    assert len(load_dataset(file, replace(SPEC, episode_limit=4)).episodes) == 2


def test_more_actions_than_a_byte_can_name(tmp_path: Path) -> None:
    spec = replace(SPEC, n_actions=257)
    write_dataset(tmp_path / "x.h5", [battle(np.random.default_rng(0), 2, spec=SPEC)], SPEC, {})
    put(tmp_path / "x.h5", "avail_actions", np.ones((1, 7, 3, spec.n_actions)))
    assert "has 257 actions, allowed: up to 256" in refusal(tmp_path / "x.h5")


# Files of other projects.


def foreign(path: Path, wanted: list[Episode], **types: str) -> Path:
    """A file as CFCQL's own programs write it: no attributes, no compression, no ``won``."""
    n, rows = len(wanted), SPEC.episode_limit + 1
    arrays = {
        "state": np.zeros((n, rows, 7), "f4"),
        "obs": np.zeros((n, rows, 3, 5), "f4"),
        "actions": np.zeros((n, rows, 3, 1), "i8"),
        "avail_actions": np.zeros((n, rows, 3, 4), "i4"),
        "probs": np.zeros((n, rows, 3, 4), "f4"),
        "reward": np.zeros((n, rows, 1), "f4"),
        "terminated": np.zeros((n, rows, 1), "u1"),
        "filled": np.zeros((n, rows, 1), "i8"),
    }
    for i, b in enumerate(wanted):
        arrays["state"][i, : b.length + 1] = b.state
        arrays["obs"][i, : b.length + 1] = b.obs
        arrays["avail_actions"][i, : b.length + 1] = b.avail_actions
        arrays["actions"][i, : b.length, :, 0] = b.actions
        arrays["actions"][i, b.length] = 3  # PyMARL may choose an action on the last row too
        arrays["reward"][i, : b.length, 0] = b.reward
        arrays["terminated"][i, b.length - 1] = b.terminated
        arrays["filled"][i, : b.length + 1] = 1
    with h5py.File(path, "w") as stored:
        for name, values in arrays.items():
            stored[name] = values.astype(types.get(name, values.dtype))
    return path


def without_outcome(wanted: list[Episode]) -> list[Episode]:
    return [replace(b, won=None) for b in wanted]


def test_a_plain_cfcql_file(tmp_path: Path) -> None:
    wanted = battles(1, 6, 6, 6, 3, 2)  # the third lasts as long as a battle can, and ends
    dataset = load_dataset(foreign(tmp_path / "x.h5", wanted), SPEC)
    assert_same(dataset.episodes, without_outcome(wanted))
    assert dataset.attrs == {} and dataset.episode_limit == 6


def test_other_number_types_axes_and_keys(tmp_path: Path) -> None:
    wanted = battles(1, 6, 6, 3)
    path = foreign(
        tmp_path / "x.h5",
        wanted,
        terminated="f4",
        filled="?",
        avail_actions="f8",
        actions="f4",
        obs="f8",
        state="f2",
    )
    for name in ("actions", "reward", "terminated", "filled"):
        put(path, name, get(path, name)[..., 0])
    put(path, "won", np.zeros((4, 1)))
    edit(path, lambda stored: stored.create_group("replay"))
    edit(path, lambda stored: stored.attrs.__setitem__("author", np.bytes_(b"x")))
    dataset = load_dataset(path, SPEC)
    assert_same(dataset.episodes, without_outcome(wanted))
    assert dataset.attrs == {"author": "x"}


def test_one_agent_without_the_trailing_axis(tmp_path: Path) -> None:
    spec = replace(SPEC, n_agents=1)
    wanted = [battle(np.random.default_rng(1), 4, spec=spec)]
    path = write_dataset(tmp_path / "x.h5", wanted, spec, {})
    put(path, "actions", get(path, "actions")[..., 0])
    assert_same(load_dataset(path, spec).episodes, wanted)


@pytest.mark.parametrize("lost", ["unmarked", "cut off"])
def test_battles_that_ended_need_no_bootstrap_row(tmp_path: Path, lost: str) -> None:
    wanted = battles(6, 4, 2)
    path = foreign(tmp_path / "x.h5", wanted)
    if lost == "unmarked":  # filled marks the steps alone
        filled, obs = get(path, "filled"), get(path, "obs")
        for i, b in enumerate(wanted):
            filled[i, b.length] = 0
            obs[i, b.length] = np.nan  # and what follows them is padding
        put(path, "filled", filled)
        put(path, "obs", obs)
    else:  # T is the episode limit: the longest battles have no room for it
        for name in hdf5.AXES:
            put(path, name, get(path, name)[:, :6])
    read = load_dataset(path, SPEC).episodes
    for i in (0, 2):
        whole = lost == "cut off" and i == 2
        rows = [*range(wanted[i].length), wanted[i].length - (not whole)]
        assert read[i].terminated and read[i].length == wanted[i].length
        np.testing.assert_array_equal(read[i].actions, wanted[i].actions)
        np.testing.assert_array_equal(read[i].reward, wanted[i].reward)
        for name in ("obs", "state", "avail_actions"):
            np.testing.assert_array_equal(getattr(read[i], name), getattr(wanted[i], name)[rows])
    # A cut battle bootstraps: its last filled row is the bootstrap row.
    length = 3 if lost == "unmarked" else 4
    assert not read[1].terminated and read[1].length == length
    np.testing.assert_array_equal(read[1].state, wanted[1].state[: length + 1])
    np.testing.assert_array_equal(read[1].actions, wanted[1].actions[:length])


def test_an_end_that_offers_no_action(tmp_path: Path) -> None:
    """A masked maximum over no action is minus infinity, and 0 times that is not a number."""
    wanted = battles(6, 4)
    path = foreign(tmp_path / "x.h5", wanted)
    avail = get(path, "avail_actions")
    avail[0, 6, 1] = 0
    put(path, "avail_actions", avail)
    read = load_dataset(path).episodes[0]
    assert read.avail_actions.any(2).all()
    np.testing.assert_array_equal(read.obs[-1], wanted[0].obs[5])
    avail[1, 4, 1] = 0  # here the target bootstraps
    put(path, "avail_actions", avail)
    assert "episode 1, step 4: agent 1 has no available action" in refusal(path)


def test_terminated_on_the_bootstrap_row_too(tmp_path: Path) -> None:
    wanted = battles(6, 4, 2)
    path = foreign(tmp_path / "x.h5", wanted)
    terminated = get(path, "terminated")
    terminated[0, 6] = terminated[2, 2] = 1
    put(path, "terminated", terminated)
    assert_same(load_dataset(path).episodes, without_outcome(wanted))


# Statistics and card.


def test_statistics_by_hand(tmp_path: Path) -> None:
    lengths, outcomes = (2, 4, 1, 5, 3), (True, False, True, False, False)
    made = battles(*lengths)
    for i, (b, won) in enumerate(zip(made, outcomes)):
        b.won = won
        b.reward[:] = 0
        b.reward[-1] = (10, 2, 20, 0, 8)[i]
    twin = replace(made[0], won=True)
    near = replace(made[0], won=False, actions=made[0].actions.copy())
    near.avail_actions = np.ones_like(near.avail_actions)
    near.actions[0, 0] = (near.actions[0, 0] + 1) % 4  # one action differs
    path = write_dataset(tmp_path / "x.h5", [*made, twin, near], SPEC, PROVENANCE)
    statistics = dataset_statistics(load_dataset(path))
    mean = (10 + 2 + 20 + 0 + 8 + 10 + 10) / 7
    squares = 100 + 4 + 400 + 0 + 64 + 100 + 100
    assert statistics == pytest.approx(
        {
            "episodes": 7,
            "transitions": 19,
            "distinct_episodes": 6,
            "return_mean": mean,
            "return_sd": (squares / 7 - mean**2) ** 0.5,
            "return_min": 0.0,
            "return_q1": 5.0,
            "return_median": 10.0,
            "return_q3": 10.0,
            "return_max": 20.0,
            "length_mean": 19 / 7,
            "truncated": 2 / 7,
            "win_rate": 3 / 7,
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    )
    json.dumps(statistics)  # plain numbers


def test_no_win_rate_where_outcomes_are_unknown(tmp_path: Path) -> None:
    dataset = load_dataset(foreign(tmp_path / "x.h5", battles(1, 2)))
    assert dataset_statistics(dataset)["win_rate"] is None
    card = write_card(dataset, tmp_path / "x.md").read_text()
    assert "| battles won | unknown |" in card
    assert "does not record the command" in card and "records nothing more" in card


def test_card(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "ovmse data make \\\n  --task 2s3z"
    provenance = {"command": command, "policy_win_rate": 0.5, "note": "one | two\nthree"}
    write_dataset(file, battles(2, 6, 1, 4), SPEC, provenance)
    dataset = load_dataset(file)
    card = write_card(dataset, file.with_suffix(".md")).read_text()
    for line in (
        "# Dataset some",
        "| battles (episodes) | 4 |",
        "| steps (transitions) | 13 |",
        "| distinct battles | 4 |",
        "| battles won | 50.0% |",
        "| battles cut by the time limit | 50.0% |",
        f"| SHA-256 | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |",
        "| policy_win_rate | 0.5 |",
        "| note | one \\| two three |",
        f'dataset = load_dataset("{file.name}")',
    ):
        assert line in card.splitlines(), line
    assert f"```bash\n{command}\n```" in card
    assert str(file.parent) not in card
    assert write_card(load_dataset(file), file.with_name("2.md")).read_text() == card
    monkeypatch.setattr("ovmse.datasets.dataset.DATA_DIR", file.parent)
    shipped = write_card(dataset, file.with_suffix(".md")).read_text()
    assert 'dataset = load_dataset("some")' in shipped
    assert sorted(os.listdir(file.parent)) == ["2.md", "some.h5", "some.md"]
