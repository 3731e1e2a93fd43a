"""Why a value drifts: one question each, numbers in, numbers out. ``each`` walks the runs."""
