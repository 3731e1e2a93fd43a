"""Why a value drifts: one question each, numbers in, numbers out; ``snapshots`` walks the runs."""
