"""A grid of notebook runs on Dask: ``grid`` plans, ``engine`` hands out, ``worker`` runs one."""

MAX_RUNS = 10_000  # a larger grid is taken for a mistake
