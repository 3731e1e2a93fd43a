"""``python -m bench``: what an update, the replay and collecting cost, beside plain versions."""
