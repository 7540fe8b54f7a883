"""``linformers distil``: bring a converted encoder closer to its teacher, on plain text."""

from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding
from linformers.cli.training import calm_threads, leave_with


def distil(
    model: Annotated[str, typer.Option(help="Folder of a converted model.", show_default=False)],
    teacher: Annotated[str, typer.Option(help="The encoder that it was converted from.", show_default=False)],
    texts: Annotated[list[str], typer.Option(help="File, folder or glob of text. Repeatable.", show_default=False)],
    output: Annotated[str, typer.Option(help="Folder for the run.", show_default=False)],
    text: Annotated[str | None, typer.Option(help="Column of the texts; found by itself if usual.")] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    max_reject_share: Annotated[float, typer.Option(help="Stop when more of the records are unusable.")] = 0.01,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(help="Sequences a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak of the rate.")] = 3e-4,
    order: Annotated[
        str, typer.Option(help="Layers become linear all at once, or greedy: one by one, the easiest first.")
    ] = "all",
    evaluation_share: Annotated[float, typer.Option(help="Share of the text to measure on.")] = 0.02,
    evaluation_sequences: Annotated[int, typer.Option(help="At most so many of them.")] = 32,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations.")] = 100,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
    dtype: Annotated[
        str,
        typer.Option(help="float32 or bfloat16: the weights in training, whatever they are stored in."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
) -> None:
    """Distil a converted encoder from its teacher's hidden states, without labels.

    The same command again goes on where the run stopped, from the newest checkpoint that is whole. SIGTERM and Ctrl-C
    write a checkpoint first; exit codes: 0 done, 1 failed, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    options = {**locals(), "texts": tuple(texts)}
    calm_threads()

    from linformers.commands.distil import DistilSettings, run_distil

    leave_with(run_distil(DistilSettings(**options)))
