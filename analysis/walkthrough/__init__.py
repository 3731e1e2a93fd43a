"""Offline-to-online learning on the climb game, in tables of a few numbers: for `00_walkthrough`.

``game`` has the true values, ``learning`` learns them offline and online, ``chances`` has what is
known in closed form, and ``grids`` computes what the sliders of the charts show.

Letters: ``G`` teams that learn side by side, ``S`` ledges (five states: the last ledge is two, by
the side of the rope), ``N`` agents (2), ``A`` actions (3: rest, step, bold), ``E`` battles.
"""
