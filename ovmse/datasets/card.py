"""What a dataset holds, in numbers and as a Markdown card that ships beside it."""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ovmse.datasets.dataset import Dataset, data_folder, dataset_size
from ovmse.runs.files import markdown_table, replacing

MEANINGS = {
    "medium": (
        "Battles of a medium policy, recorded while each agent explores with probability 0.05. "
        "Medium is, of about ten policies that one training of QMIX from scratch passed through, "
        "the one whose win rate without exploring lies nearest to half of the best one's; where "
        "none wins a tenth of its battles, mean returns take the place of win rates. 2s3z alone is "
        "pinned to the policy at 140,000 steps, which is stronger than that: its files were made "
        "before the definition, and Figure 1 rests on them."
    ),
    "medium_replay": (
        "What a training of QMIX from scratch went through until its policy was medium (see the "
        "card of the medium dataset). Collected from the shipped policies: as many battles of each "
        "up to the medium one, with the exploration of its time. The shipped file of 2s3z is older "
        "than the shipped policies: it holds the training's own replay buffer, and its command, as "
        "it worked at commit 228eb05, trained anew."
    ),
}

CONVERTED = (
    "Battles of another project's dataset (see `source` below), converted by `ovmse data convert`; "
    "what its quality means is said there."
)

# Attributes that the card shows elsewhere than under "How it was made".
_SHOWN = {"command", "format", "episodes", "transitions", "episode_limit"}
_SHOWN |= {"n_agents", "n_actions", "obs_size", "state_size"}


def dataset_statistics(dataset: Dataset) -> dict[str, Any]:
    """The numbers of a dataset's card.

    episodes, transitions (environment steps), distinct_episodes (by their actions and
    observations: some published files hold every battle eight times), return_mean, return_sd
    (population), return_min, return_q1, return_median, return_q3, return_max (undiscounted),
    length_mean (steps), truncated (share cut by the time limit, 0..1), win_rate (share won, 0..1;
    None if the outcome of any battle is unknown), bytes (of the file) and sha256.
    """
    episodes = dataset.episodes
    returns = np.array([e.episode_return for e in episodes])
    low, q1, median, q3, high = np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]).tolist()
    known = [e.won for e in episodes if e.won is not None]
    return {
        "episodes": len(episodes),
        "transitions": dataset.transitions,
        "distinct_episodes": len({_fingerprint(e.actions, e.obs) for e in episodes}),
        "return_mean": float(returns.mean()),
        "return_sd": float(returns.std()),
        "return_min": low,
        "return_q1": q1,
        "return_median": median,
        "return_q3": q3,
        "return_max": high,
        "length_mean": dataset.transitions / len(episodes),
        "truncated": sum(not e.terminated for e in episodes) / len(episodes),
        "win_rate": sum(known) / len(known) if len(known) == len(episodes) else None,
        "bytes": dataset_size(dataset.path),
        "sha256": dataset.checksum,
    }


def _fingerprint(*arrays: np.ndarray) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + array.tobytes())
    return digest.digest()


def write_card(dataset: Dataset, path: str | Path) -> Path:
    """Writes the dataset's Markdown card, atomically: its numbers, how it was made, how to read it.

    All attributes that the writer gave as provenance are listed; ``command`` stands in a block of
    its own. The same file gives the same card.
    """
    path = Path(path)
    s = dataset_statistics(dataset)
    attrs = dataset.attrs
    wins = "unknown" if s["win_rate"] is None else f"{s['win_rate']:.1%}"
    numbers = [
        ("battles (episodes)", f"{s['episodes']:,}"),
        ("steps (transitions)", f"{s['transitions']:,}"),
        ("distinct battles", f"{s['distinct_episodes']:,}"),
        ("battles won", wins),
        ("return, mean ± standard deviation", f"{s['return_mean']:.2f} ± {s['return_sd']:.2f}"),
        (
            "return, quartiles (lowest to highest)",
            f"{s['return_q1']:.2f}, {s['return_median']:.2f}, {s['return_q3']:.2f} "
            f"({s['return_min']:.2f} to {s['return_max']:.2f})",
        ),
        ("steps a battle, mean", f"{s['length_mean']:.1f}"),
        ("battles cut by the time limit", f"{s['truncated']:.1%}"),
        ("agents, actions", f"{dataset.n_agents}, {dataset.n_actions}"),
        ("observation, state size", f"{dataset.obs_size}, {dataset.state_size}"),
        ("most steps a battle can last", dataset.episode_limit),
        ("file", f"`{dataset.path.name}`, {s['bytes'] / 1e6:.1f} MB"),
        ("SHA-256", f"`{s['sha256']}`"),
    ]
    made = [(name, value) for name, value in sorted(attrs.items()) if name not in _SHOWN]
    folder, vault = dataset.path.parent.resolve(), dataset.path.is_dir()
    backend = "smax" if folder == data_folder("smax").resolve() else folder.name
    shipped = folder == data_folder(backend).resolve() and not vault
    name = dataset.path.stem if shipped else dataset.path.name
    if vault:
        name = f"{folder.name}/{name}"
    other = f', backend="{backend}"' if shipped and backend != "smax" else ""
    task = f" of {attrs['task']} on {attrs['backend']}" if {"task", "backend"} <= set(attrs) else ""
    # What others publish under the same word was made otherwise.
    meaning = MEANINGS.get(str(attrs.get("quality"))) if "format" in attrs else None
    if "source" in attrs:
        meaning = CONVERTED
    recorded = "The file records nothing more."
    if made:
        recorded = markdown_table(["recorded", "value"], made)
    about = "\n" + textwrap.fill(meaning, 100) + "\n" if meaning else ""
    text = f"""# Dataset {dataset.path.stem}

{s["episodes"]:,} battles{task}.
{about}
{markdown_table(["in the file", "value"], numbers)}

## How it was made

{_command(attrs.get("command"))}

{recorded}

## How to read it

```python
from ovmse.datasets import load_dataset

dataset = load_dataset("{name}"{other})
```

{_AS_VAULT if vault else _AS_HDF5.format(rows=dataset.episode_limit + 1)}
"""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


_AS_HDF5 = """Or with any HDF5 reader: CFCQL's layout, zero-padded to {rows} rows; `filled`
marks the real rows, the last of which is the bootstrap row."""
_AS_VAULT = "By the path of its folder; or with OG-MARL's own tools."


def _command(command: Any) -> str:
    return f"```bash\n{command}\n```" if command else "The file does not record the command."
