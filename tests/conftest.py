"""What the tests of learning share: one JAX batch size (compiling it is slow) and a dataset."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spinning pools slow each other

import numpy as np
import pandas as pd
import pytest
import torch

from ovmse.envs import VectorEnv, make_env

if TYPE_CHECKING:
    from browser import Browser, Lab
    from starcraft import Double

ROOT = Path(__file__).resolve().parents[1]
NUM_ENVS = 8


def chart_tables(chart: Any) -> list[pd.DataFrame]:
    """Every table that a chart holds."""
    from analysis.charts.show import VEGALITE, mimebundle

    texts = mimebundle(chart)[VEGALITE]["datasets"].values()
    return [pd.read_csv(io.StringIO(text)) for text in texts]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains on SMAX is slow: it begins by compiling for half a minute. Files with slow tests
    come first, so that no process is left alone with one in the end."""
    for item in items:
        if "dataset_file" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    long = {
        i.path for i in items if i.get_closest_marker("slow") or i.get_closest_marker("browser")
    }
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def env() -> VectorEnv:
    """SMAX 2s3z; the compiled functions are shared by all tests of a process."""
    return make_env("2s3z", num_envs=NUM_ENVS)


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    """StarCraft II's double, in the place of the installed package."""
    from starcraft import Double

    return Double(tmp_path / "starcraft", monkeypatch.setenv)


@pytest.fixture(scope="session")
def dataset_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 battles of 2s3z at random."""
    from ovmse.datasets import write_dataset
    from ovmse.method.learner import new_q_function
    from ovmse.training.rollout import collect

    env = make_env("2s3z", num_envs=NUM_ENVS)
    q = new_q_function(env.spec, (8, 4, 8), seed=0)
    battles = collect(q, env, 24, np.random.default_rng(0), epsilon=1.0)
    path = tmp_path_factory.mktemp("data") / "random.h5"
    return write_dataset(path, battles, env.spec, {"policy": "random"})


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of four short runs on the climb game."""
    from sweeps import climb_grid

    return climb_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file."""
    from browser import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One JupyterLab for the tests of a file."""
    from browser import Lab

    with closing(Lab(tmp_path_factory.mktemp("lab"))) as server:
        yield server
