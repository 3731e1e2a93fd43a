"""OG-MARL's vaults, written here with tensorstore as Flashbax writes them."""

from __future__ import annotations

import builtins
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ovmse.cli.app import app
from ovmse.datasets import (
    Dataset,
    dataset_statistics,
    load_dataset,
    vault,
    vault_writing,
    write_dataset,
)
from ovmse.datasets.dataset import DatasetError, dataset_path
from ovmse.envs.base import EnvSpec
from ovmse.episodes import Episode
from ovmse.errors import UserError

tensorstore = pytest.importorskip("tensorstore", reason="vaults are an extra: tensorstore")
N, O, S, A = 3, 5, 7, 9  # noqa: E741
SPEC = EnvSpec("3m", "smac", N, A, O, S, 60)


def stream(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Battles end to end; every end is terminal, as in SMAC's vaults."""
    rng, total = np.random.default_rng(seed), sum(lengths)
    legals = rng.random((total, N, A)) < 0.5
    legals[..., 1] = True
    ends = np.zeros((total, N), np.bool_)
    ends[np.cumsum(lengths) - 1] = True
    return {
        "observations.": rng.normal(size=(total, N, O)).astype(np.float32),
        "actions.": np.ones((total, N), np.int64),
        "rewards.": np.repeat(rng.normal(size=(total, 1)), N, 1).astype(np.float32),
        "terminals.": ends,
        "truncations.": np.zeros_like(ends),
        "infos.legals.": legals,
        "infos.state.": rng.normal(size=(total, S)).astype(np.float32),
    }


def write(path: Path, arrays: dict[str, np.ndarray], index: int | None = None) -> Path:
    """A vault: zarr over OCDBT, the time axis endless."""

    def put(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": path.as_uri() + "/", "path": name},
            "metadata": {"compressor": {"id": "gzip", "level": 5}},
        }
        chunk = [1, min(1000, values.shape[1]), *values.shape[2:]] if values.ndim > 1 else [1]
        layout = tensorstore.ChunkLayout(chunk_shape=chunk)
        store = tensorstore.open(
            spec, create=True, shape=shape, dtype=values.dtype, chunk_layout=layout
        ).result()
        window = store[:, : values.shape[1]] if values.ndim > 1 else store
        window.write(values).result()

    path.mkdir(parents=True)
    for name, array in arrays.items():
        values = array[None]
        put(name, values, (1, 10**13, *values.shape[2:]))
    total = len(arrays["actions."]) if index is None else index
    put("vault_index", np.array([total], np.int32), (1,))
    return path


@pytest.mark.parametrize("read_bytes", [1, 700, 2**23])
def test_a_stream_is_cut_into_its_battles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(vault, "READ_BYTES", read_bytes)
    arrays = stream([4, 1, 60, 9])
    said: list[tuple[int, int]] = []
    path = write(tmp_path / "3m.vlt" / "Good", arrays)
    read = load_dataset(path, SPEC, progress=lambda *at: said.append(at))
    # A battle as long as the map's limit was cut: its last row is what is bootstrapped from.
    assert [e.length for e in read.episodes] == [4, 1, 59, 9]
    assert [e.terminated for e in read.episodes] == [True, True, False, True]
    assert said[-1] == (74, 74) and read.attrs["task"] == "3m"
    start = 0
    for e, length in zip(read.episodes, [4, 1, 60, 9]):
        rows = slice(start, start + e.length)
        np.testing.assert_array_equal(e.reward, arrays["rewards."][rows, 0])
        np.testing.assert_array_equal(e.obs[:-1], arrays["observations."][rows].astype("f2"))
        np.testing.assert_array_equal(e.avail_actions[:-1], arrays["infos.legals."][rows])
        np.testing.assert_array_equal(
            e.state[-1], arrays["infos.state."][start + length - 1].astype("f2")
        )
        assert e.won is None and e.state.base is None
        start += length
    assert dataset_statistics(read)["bytes"] > 0


def test_it_is_found_by_task_quality_and_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovmse.datasets.dataset.DATA_DIR", tmp_path)
    path = write(tmp_path / "smac" / "3m.vlt" / "Good", stream([4, 5]))
    assert dataset_path("3m", "Good", "smac") == path
    with pytest.raises(DatasetError):
        dataset_path("3m", "Good", "smax")
    done = CliRunner().invoke(
        app, ["data", "convert", str(path), "--task", "3m", "--quality", "good",
              "--out", str(tmp_path / "smac" / "3m_good.h5")]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    # by its file's name alone it is of the backend's folder too, here and where it is converted
    assert dataset_path("3m", "3m_good.h5", "smac") == tmp_path / "smac" / "3m_good.h5"
    with pytest.raises(DatasetError):
        dataset_path("3m", "3m_good.h5", "smax")
    done = CliRunner().invoke(
        app, ["data", "convert", "3m_good.h5", "--task", "3m", "--quality", "again",
              "--backend", "smac"]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert dataset_path("3m", "again", "smac").is_file()
    made = load_dataset(dataset_path("3m", "good", "smac"), SPEC)
    for a, b in zip(made.episodes, load_dataset(path).episodes, strict=True):
        np.testing.assert_array_equal(a.obs, b.obs)
        assert a.terminated == b.terminated
    card = (tmp_path / "smac" / "3m_good.md").read_text()
    assert "source_sha256" in card and "Battles of another project's dataset" in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("5m_vs_6m_medium.h5 --quality x --task 2s3z", "5m_vs_6m_medium.h5 is of another task"),
        ("5m_vs_6m_medium.h5 --quality x", "has a battle of 71 steps; 5m_vs_6m on smac allows 70"),
        ("5m_vs_6m_medium.h5 --quality x --task nope", "task: got 'nope', allowed: 2s3z"),
        ("5m_vs_6m_medium.h5 --quality x --backend smax", "is of another task: it has 5 agents"),
        ("5m_vs_6m_medium.h5 --quality ../../evil", "quality: got '../../evil', allowed: a name"),
        ("mine.h5 --quality x", "mine.h5 is not named after a map of smac: say it by --task"),
        ("3m.vlt/Good --quality x --task 8m", "Good is of another task: it has 3 agents"),
    ],
)
def test_a_dataset_is_not_written_under_another_map_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    """A file of another project does not say its map: its name and sizes do."""
    monkeypatch.setattr("ovmse.datasets.dataset.DATA_DIR", tmp_path / "data")
    write(tmp_path / "3m.vlt" / "Good", stream([4, 60]))
    shape = np.ones((72, 5, 12))
    long = Episode(
        obs=shape[..., :3], state=np.ones((72, 98)), avail_actions=shape,
        actions=np.zeros((71, 5), int), reward=np.ones(71), terminated=True,
    )  # fmt: skip
    spec = EnvSpec("any", "any", 5, 12, 3, 98, 100)
    for name in ("5m_vs_6m_medium.h5", "mine.h5"):
        write_dataset(tmp_path / name, [long], spec, {})
        with h5py.File(tmp_path / name, "r+") as file:
            for attribute in list(file.attrs):
                del file.attrs[attribute]
    source, *rest = words.split()
    done = CliRunner().invoke(app, ["data", "convert", str(tmp_path / source), *rest])
    assert done.exit_code == 2 and said in done.stderr, done.output + done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_an_hdf5_file_becomes_a_vault_and_the_same_battles_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Battles that ended, that the limit cut, and one that ended just there; more than a block."""
    monkeypatch.setattr(vault_writing, "CHUNK_ROWS", 10)
    monkeypatch.setattr(vault_writing, "WRITE_ROWS", 30)
    source = write(tmp_path / "3m.vlt" / "Good", stream([4, 60, 7, 60, 12]))
    battles = load_dataset(source, SPEC).episodes
    first = battles[1]
    whole = Episode(
        obs=np.concatenate([first.obs, first.obs[-1:]]),
        state=np.concatenate([first.state, first.state[-1:]]),
        avail_actions=np.concatenate([first.avail_actions, first.avail_actions[-1:]]),
        actions=np.concatenate([first.actions, first.actions[-1:]]),
        reward=np.append(first.reward, np.float32(3)), terminated=True,
    )  # fmt: skip
    file = write_dataset(tmp_path / "3m_x.h5", [*battles, whole], SPEC, {"note": "by hand"})
    out = tmp_path / "mine" / "3m.vlt" / "X"
    words = ["data", "convert", str(file), "--task", "3m", "--quality", "x", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    read = load_dataset(out, SPEC)
    assert [e.length for e in read.episodes] == [4, 59, 7, 59, 12, 60]
    for a, b in zip(read.episodes, [*battles, whole], strict=True):
        rows = slice(a.length + (not a.terminated))  # nothing bootstraps from a true end
        for name in ("obs", "state", "avail_actions"):
            np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name)[rows])
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.reward, b.reward)
        assert a.terminated == b.terminated
    card = out.with_suffix(".md").read_text()
    assert read.checksum in card and "| source | 3m_x.h5 |" in card and "3m.vlt/X" in card
    # Flashbax looks for its arrays by this tree.
    about = json.loads((out / "metadata.json").read_text())
    assert about["structure_dtype"]["infos"] == {"legals": "bool", "state": "float32"}
    assert about["structure_shape"]["actions"].startswith("(1, ")
    # Once more only with --force, and never in the place of something else.
    assert "--force replaces it" in CliRunner().invoke(app, words).stderr
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0
    assert load_dataset(out).transitions == read.transitions
    (other := tmp_path / "3m.vlt" / "Notes").mkdir()
    (other / "notes.txt").touch()
    done = CliRunner().invoke(app, [*words[:-1], str(other), "--force"])
    assert "is no vault" in done.stderr and (other / "notes.txt").is_file()
    wrong = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "8m.vlt" / "X")])
    assert "says 8m on smac, asked for: 3m on smac" in wrong.stderr
    assert sorted(p.name for p in out.parent.iterdir()) == ["X", "X.md"]


def change(name: str, at: Any, value: Any) -> dict[str, np.ndarray]:
    arrays = stream([4, 5])
    arrays[name] = arrays[name].astype(np.float32)
    arrays[name][at] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (change("rewards.", (2, 1), 9), "episode 0: the agents' rewards differ"),
        (change("actions.", (5, 2), 3.5), "episode 1, step 1: agent 2 takes action 3.5"),
        (change("actions.", (5, 2), 12), "allowed: 0 to 8"),
        (change("observations.", (6, 0, 0), np.nan), "episode 1, step 2: obs is nan"),
        (change("infos.legals.", (0, 1), 0), "episode 0, step 0: agent 1 has no available"),
        ({k: v for k, v in stream([3]).items() if k != "infos.state."}, "lacks infos.state."),
        ({**stream([3]), "infos.state.": np.zeros((3, 2, 7), "f4")}, "infos.state. has shape"),
    ],
)
def test_what_is_unusable_is_located(
    tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    path = write(tmp_path / "3m.vlt" / "Good", arrays)
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_another_task_an_index_too_long_and_no_tensorstore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "8m.vlt" / "Good", stream([4]))
    with pytest.raises(DatasetError, match="is of 8m on smac, asked for: 3m on smac"):
        load_dataset(path, SPEC)
    empty = write(tmp_path / "3m.vlt" / "Empty", stream([4]), index=0)
    with pytest.raises(DatasetError, match="vault_index is 0"):
        load_dataset(empty)
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "tensorstore":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DatasetError, match="pip install tensorstore"):
        load_dataset(path)


damage = given(
    kind=st.sampled_from(["cut", "flip", "remove"]),
    which=st.floats(0, 0.999), where=st.floats(0, 0.999), bit=st.integers(0, 7),
)  # fmt: skip
fuzzed = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def spoil(victim: Path, kind: str, where: float, bit: int) -> None:
    content = bytearray(victim.read_bytes())
    at = int(where * len(content))
    if kind == "remove":
        victim.unlink()
    elif kind == "cut":
        victim.write_bytes(content[:at])
    elif content:
        content[at] ^= 1 << bit
        victim.write_bytes(content)


def readable(path: Path) -> Dataset | None:
    """Battles that every check has passed, or None after an error sentence."""
    try:
        read = load_dataset(path)
    except UserError as error:
        assert str(error)
        return None
    for e in read.episodes:
        assert np.isfinite(e.obs).all() and np.isfinite(e.reward).all()
        assert np.take_along_axis(e.avail_actions[:-1], e.actions[..., None].astype(int), 2).all()
    return read


@pytest.fixture(scope="module")
def whole_vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three battles; each example of the fuzz spoils a copy."""
    return write(tmp_path_factory.mktemp("whole") / "3m.vlt" / "Good", stream([4, 5, 3]))


@fuzzed
@damage
def test_a_damaged_vault_is_a_sentence_or_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    whole_vault: Path,
    kind: str,
    which: float,
    where: float,
    bit: int,
) -> None:
    arrays = stream([4, 5, 3])
    path = tmp_path_factory.mktemp("fuzz") / "3m.vlt" / "Good"
    shutil.copytree(whole_vault, path)
    files = sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    spoil(files[int(which * len(files))], kind, where, bit)
    if (read := readable(path)) is not None:  # what it holds is summed up: nothing wrong passes
        obs = np.concatenate([e.obs[:-1] for e in read.episodes])
        np.testing.assert_array_equal(obs, arrays["observations."].astype("f2")[: len(obs)])


@fuzzed
@damage
def test_a_damaged_hdf5_file_is_a_sentence_or_battles_that_can_be(
    tmp_path_factory: pytest.TempPathFactory, kind: str, which: float, where: float, bit: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "3m.h5"
    arrays = stream([4, 5, 3])
    with h5py.File(path, "w") as file:
        for name, key, tail in (
            ("state", "infos.state.", ()), ("obs", "observations.", ()),
            ("actions", "actions.", (1,)), ("avail_actions", "infos.legals.", ()),
        ):  # fmt: skip
            rows = np.stack([arrays[key][:4], arrays[key][4:8]])
            kind_on_disk = "i4" if rows.dtype == bool else rows.dtype
            file[name] = rows.reshape(*rows.shape, *tail).astype(kind_on_disk)
        file["reward"] = np.ones((2, 4, 1), np.float32)
        file["terminated"] = np.zeros((2, 4, 1), np.uint8)
        file["filled"] = np.ones((2, 4, 1), np.int64)
    assert readable(path) is not None
    spoil(path, kind, where, bit)
    readable(path)


# The published sizes.


def public_file(path: Path, episodes: int, limit: int, chunk: tuple[int, int]) -> int:
    """6h_vs_8z's sizes; what no battle reaches is never written and reads as zeros. Returns the
    bytes of the battles in memory's types."""
    n, obs, state, actions, longest = 6, 78, 140, 14, 58
    rng, steps = np.random.default_rng(0), 0
    tails = {
        "state": (state,), "obs": (n, obs), "actions": (n, 1), "avail_actions": (n, actions),
        "probs": (n, actions), "reward": (1,), "terminated": (1,), "filled": (1,),
    }  # fmt: skip
    kinds = {"actions": "i8", "avail_actions": "i4", "terminated": "u1", "filled": "i8"}
    with h5py.File(path, "w") as file:
        for name, tail in tails.items():
            chunks = (*chunk, *tail)
            shape = (episodes, limit + 1, *tail)
            file.create_dataset(
                name, shape, kinds.get(name, "f4"), chunks=chunks, compression="lzf"
            )
        for name in ("actions", "reward", "terminated"):
            file[name][0] = 0
        for start in range(0, episodes, 100):
            lengths = rng.integers(25, longest, 100)
            filled = np.arange(longest) <= lengths[:, None]
            steps += int(lengths.sum())
            for name, value in (("filled", 1), ("avail_actions", 1), ("obs", 0.5), ("state", 0.25)):
                tail = tails[name]
                one = np.full(tail, value, np.float32)
                spread = filled.reshape(*filled.shape, *[1] * len(tail)) * one
                file[name][start : start + 100, :longest] = spread
    return steps * (n * obs * 2 + state * 2 + n * actions + n + 4)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [(100, 58), (625, 10)])  # by few battles; by few steps of many
def test_a_published_file_is_read_in_twice_its_unpadded_size(
    tmp_path: Path, chunk: tuple[int, int]
) -> None:
    """5,000 battles of 6h_vs_8z: padded they would take 2.4 GB."""
    unpadded = public_file(tmp_path / "6h_vs_8z_medium.h5", 5_000, 150, chunk)
    said: list[int] = []
    tracemalloc.start()
    read = load_dataset(tmp_path / "6h_vs_8z_medium.h5", progress=lambda done, _: said.append(done))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read.episodes) == said[-1] == 5_000 and said == sorted(set(said))
    assert peak < 2 * unpadded
