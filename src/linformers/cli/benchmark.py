"""``linformers benchmark``: time and memory of our encoder beside softmax attention and transformers' encoders."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

# What a model of one's own brings along.
_OF_THE_MODEL = {"dims", "hidden_size", "layers", "heads", "intermediate_size", "vocab_size", "fields"}


def benchmark(
    context: typer.Context,
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD=VALUE]...",
            help="Fields of LinformerConfig for our encoder, such as projection_kind=mean_pool.",
            show_default=False,
        ),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Tokens.")] = "512,1024,2048,4096,8192",
    dims: Annotated[
        str, typer.Option(help="Slots of our encoder, k; those below the length are measured.")
    ] = "128,256",
    against: Annotated[
        str,
        typer.Option(
            help="Of softmax-sdpa and kfree (our encoder), softmax-eager, roberta, longformer, bigbird, nystromformer "
            "and modernbert; the table has ratios to the first; '' for none."
        ),
    ] = "softmax-sdpa,softmax-eager",
    model: Annotated[
        str | None,
        typer.Option(
            help="Measure this model's configuration (folder or hub id) instead of --dims; rivals take its shape."
        ),
    ] = None,
    hidden_size: Annotated[int, typer.Option(help="Width of all encoders.")] = 768,
    layers: Annotated[int, typer.Option(help="Layers of all encoders.")] = 3,
    heads: Annotated[int, typer.Option(help="Heads of all encoders.")] = 12,
    intermediate_size: Annotated[
        int | None, typer.Option(help="Width of the feed-forward layers.", show_default="4 x --hidden-size")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 50265,
    batch_size: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    memory: Annotated[
        str | None,
        typer.Option(help="Take the largest batch whose weights and peak fit into so much (8GB, 512MB) instead."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cuda where there is one")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the encoders with torch.compile.")] = False,
    training: Annotated[
        bool, typer.Option("--training", help="Forward, backward and an AdamW step instead of a forward pass.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Passes of a cell at most; the first does not count.")] = 5,
    cell_seconds: Annotated[float, typer.Option(help="No further pass of a cell starts after this.")] = 5.0,
    pass_limit: Annotated[float, typer.Option(help="Leave out cells where a pass would take more seconds.")] = 120.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and tokens.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/benchmark"),
) -> None:
    """Measure time and peak memory of a pass by length, for our encoder and others of the same shape.

    Random weights and tokens; every cell in a fresh process. The same command again goes on where it stopped, and other
    lengths, dims or rivals add to the table, but only on the same machine, with the same versions and options.
    """
    if model is not None:
        for name in sorted(_OF_THE_MODEL):
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                option = "FIELD=VALUE" if name == "fields" else f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} has no effect with --model, which has its own: leave one of them out")
    if memory is not None and getattr(context.get_parameter_source("batch_size"), "name", "") == "COMMANDLINE":
        raise ValueError(f"--batch-size {batch_size} and --memory {memory} contradict each other: leave one out")

    import torch
    from rich.console import Console

    from linformers.commands.benchmark import BenchmarkSettings, Plan, run_benchmark
    from linformers.files.settings import override
    from linformers.measure import contenders as kinds
    from linformers.measure.memory import parse_bytes

    settings = BenchmarkSettings(
        batch_size=batch_size,
        memory=None if memory is None else parse_bytes("--memory", memory),
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        compile=compile,
        training=training,
        repeats=repeats,
        cell_seconds=cell_seconds,
        pass_limit=pass_limit,
        seed=seed,
    )
    overrides: dict[str, Any] = {}
    if model is not None:
        own, shape = kinds.saved(model)
        ours = [own]
    else:
        override(overrides, {}, fields or [])
        shape = kinds.Shape(
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate_size,
            vocab_size=vocab_size,
        )
        ours = [kinds.linformer(shape, k, overrides) for k in _numbers("--dims", dims)]
    rivals = [name.strip() for name in against.split(",") if name.strip()]
    plan = Plan(
        contenders=[*ours, *(kinds.rival(name, shape) for name in rivals)],
        lengths=_numbers("--lengths", lengths),
        reference=rivals[0] if rivals else None,
        settings=settings,
        options={"shape": shape.model_dump(), "fields": overrides if model is None else dict(ours[0].fields)},
    )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    run_benchmark(plan, output, console)
    console.print(
        "Next: the same command with other --lengths, --dims or --against adds to this table; `linformers convert` "
        "makes an encoder that you have linear.",
        soft_wrap=True,
    )


def _numbers(option: str, text: str) -> list[int]:
    """``512,1024`` as numbers."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"{option}={text!r} is no list of whole numbers above 0: write for instance 512,1024")
    return found
