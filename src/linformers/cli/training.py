"""What all commands that train do first and last."""

import os

import typer


def calm_threads() -> None:
    """Set how threads wait; call it before torch is first imported, which reads it."""
    # Threads that spin while they wait slow training down many times over when another program uses the processor too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def leave_with(code: int) -> None:
    """End the command; 0 is the end of a command that returns."""
    if code:
        raise typer.Exit(code)
