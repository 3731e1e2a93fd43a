"""Offline datasets: one HDF5 layout on disk (CFCQL's), unpadded episodes in memory, and cards."""

from __future__ import annotations

from ovmse.datasets.card import dataset_statistics, write_card
from ovmse.datasets.hdf5 import DATA_DIR, Dataset, DatasetError, load_dataset, write_dataset

__all__ = [
    "DATA_DIR",
    "Dataset",
    "DatasetError",
    "dataset_statistics",
    "load_dataset",
    "write_card",
    "write_dataset",
]
