"""Offline datasets: one HDF5 layout on disk (CFCQL's), unpadded episodes in memory, and cards."""

from __future__ import annotations

from ovmse.datasets.audit import Audit, audit
from ovmse.datasets.card import dataset_statistics, write_card
from ovmse.datasets.dataset import Dataset, DatasetError
from ovmse.datasets.hdf5 import load_dataset
from ovmse.datasets.hdf5_writing import write_dataset

__all__ = [
    "Audit",
    "Dataset",
    "DatasetError",
    "audit",
    "dataset_statistics",
    "load_dataset",
    "write_card",
    "write_dataset",
]
