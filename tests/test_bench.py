"""The bench: its plain learner computes what ours does, and its report holds together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import SMALL

from bench.__main__ import main
from bench.measure import SETTINGS, peak_memory, random_batch
from bench.rows import COUNTERFACTUAL, MACQL, require_equal_losses
from ovmse.method.learner import UpdateSettings


@pytest.mark.parametrize("settings", [SETTINGS, MACQL, COUNTERFACTUAL])
def test_plain_learner_has_our_loss_and_gradient(settings: UpdateSettings) -> None:
    ours, plain = require_equal_losses(SMALL, random_batch(SMALL, 6, 9), settings, "cpu")
    for mine, theirs in zip(ours.q.parameters(), plain.learned, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_peak_memory_counts_every_tensor() -> None:
    def call() -> None:
        kept = torch.zeros(1000)
        del kept
        both = torch.zeros(1000), torch.zeros(2000)
        del both

    assert peak_memory(call, "cpu") == 12_000


@pytest.mark.slow
def test_quick_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.md"
    assert main(["--quick", "--out", str(out)]) == 0
    text = out.read_text()
    assert capsys.readouterr().out.split() == text.split()
    for expected in ("QMIX update", "MACQL update, K=100: peak memory", "OVM", "replay", "Scaling"):
        assert expected in text
    assert "2 tiny notebooks (QMIX on the climb game" in text
    assert "1 of 1 runs end with the measurements of an undisturbed sweep" in text
    assert "| 03_exploration | 2s3z | 6 | " in text
    last = text.rstrip().splitlines()[-1]
    assert "of 8 rows fall short" in last
    assert text.count("| short ") == int(last.split()[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_missing_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 1
    assert capsys.readouterr().err == "No CUDA device is present here; leave out --device cuda.\n"
