"""Training: one engine, what it learns from, and the steps that all commands share that train."""
