"""Runs on disk: ``directory`` writes one and continues it, ``reading`` reads it without torch,
``tables`` and ``listing`` show many, ``code`` and ``sharing`` say what made what, ``files`` writes.
"""
