"""A grid of notebook runs on Dask: ``grid`` plans, ``engine`` hands out, ``worker`` runs one."""
