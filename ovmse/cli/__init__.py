"""The command line: ``app`` has the commands, ``terminal`` what they show."""
