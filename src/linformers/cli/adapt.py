"""``linformers adapt``: teach an encoder to read long texts, on plain text."""

from typing import Annotated

import typer

from linformers.cli.reading import Delimiter, Encoding
from linformers.cli.training import calm_threads, leave_with


def adapt(
    model: Annotated[
        str,
        typer.Option(
            help="Folder or hub id of an encoder, of sentence-transformers too; it need not be linear yet.",
            show_default=False,
        ),
    ],
    texts: Annotated[
        list[str], typer.Option(help="File, folder or glob of long text. Repeatable.", show_default=False)
    ],
    output: Annotated[str, typer.Option(help="Folder for the run.", show_default=False)],
    text: Annotated[str | None, typer.Option(help="Column of the texts; found by itself if usual.")] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    max_reject_share: Annotated[float, typer.Option(help="Stop when more of the records are unusable.")] = 0.01,
    segment_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens that see each other exactly, with the rest of the text as slots that weigh less.",
            show_default="the model's, or 128",
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest text of the result, in tokens.", show_default="the model's, or 8192")
    ] = None,
    projected_dim: Annotated[
        int | None, typer.Option(help="Slots for the rest of a text.", show_default="the model's, or 32")
    ] = None,
    context_weight: Annotated[
        float | None,
        typer.Option(
            help="The most that the rest of a text weighs, at equal scores, of what a segment weighs.",
            show_default="the model's, or 0.25",
        ),
    ] = None,
    global_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens at the start of a text, as its title, that every segment sees exactly.",
            show_default="the model's, or 1",
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a passage in training.")] = 1024,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Passages a step, told apart from each other.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak of the rate.")] = 2e-5,
    anchor: Annotated[float, typer.Option(help="Weight of staying near the vectors of before.")] = 1.0,
    evaluation_share: Annotated[float, typer.Option(help="Share of the text to measure on.")] = 0.05,
    evaluation_passages: Annotated[int, typer.Option(help="At most so many of its passages.")] = 64,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations.")] = 50,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of order and queries.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16: the weights in training.")] = "float32",
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
) -> None:
    """Teach an encoder to read long texts, on plain text, without labels.

    It reads a text in segments that see the rest of the text, and learns to be found by what is said in it.

    The same command again goes on where the run stopped, from the newest checkpoint that is whole. SIGTERM and Ctrl-C
    write a checkpoint first; exit codes: 0 done, 1 failed, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    options = {**locals(), "texts": tuple(texts)}
    calm_threads()

    from linformers.commands.adapt import AdaptSettings, run_adapt

    leave_with(run_adapt(AdaptSettings(**options)))
