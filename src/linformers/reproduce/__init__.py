"""The papers' tables and figures, run again: ours beside what was published, and whether each claim held."""
