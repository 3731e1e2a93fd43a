"""The command line: ``app`` and ``data`` have the commands, ``terminal`` what they show."""
