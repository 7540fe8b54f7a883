"""``linformers tokenizer``: train a byte-level BPE tokenizer on one's own text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from linformers.cli.reading import Delimiter, Encoding


def tokenizer(
    input: Annotated[
        list[str],
        typer.Option(help="File, folder, glob or hf:NAME (text, JSONL, CSV, Parquet, .gz, .zst). Repeatable."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens in all, 256 bytes and 5 special tokens included.")] = 50265,
    model_max_length: Annotated[int, typer.Option(min=1, help="Longest sequence of the model, in tokens.")] = 512,
    min_frequency: Annotated[int, typer.Option(min=1, help="Pairs seen less often are not merged.")] = 2,
    text_column: Annotated[
        str | None, typer.Option("--text", help="Column of the text; found by itself if usual.")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    documents: Annotated[str, typer.Option(help="A document of .txt files: file, blank_line or line.")] = "file",
    max_reject_share: Annotated[float, typer.Option(help="Stop when more of the records are unusable.")] = 0.01,
) -> None:
    """Train a byte-level BPE tokenizer with RoBERTa's special tokens.

    The folder can be used wherever a Hugging Face tokenizer can. Records that cannot be read are named in rejects.jsonl
    beside it.
    """
    from rich.console import Console
    from transformers import AutoTokenizer

    from linformers.data.documents import read_texts
    from linformers.data.tokenizer import SMALLEST_VOCABULARY, train_tokenizer
    from linformers.files.folders import check_no_file, save_beside
    from linformers.files.progress import ReadProgress
    from linformers.files.rejects import Rejects
    from linformers.files.sources import Source

    console = Console(highlight=False, soft_wrap=True)
    given: Any = {"documents": documents, "delimiter": delimiter, "encoding": encoding}
    sources = [Source(path=path, text_column=text_column, **given) for path in input]
    rejects = Rejects(path=output / "rejects.jsonl", max_share=max_reject_share)
    if vocab_size < SMALLEST_VOCABULARY:  # before the text is read
        raise ValueError(f"vocab_size={vocab_size} is too small; use {SMALLEST_VOCABULARY} or more")
    check_no_file(output)
    characters = 0
    with rejects, ReadProgress(console, "reading", unit="characters") as progress:

        def texts() -> Iterator[str]:
            nonlocal characters
            for text in read_texts("input", sources, rejects, progress.reached, progress.say):
                characters += len(text)
                progress.add(len(text))
                yield text

        trained = train_tokenizer(
            texts(), vocab_size=vocab_size, model_max_length=model_max_length, min_frequency=min_frequency
        )
    save_beside(output, lambda folder: trained.save_pretrained(str(folder)))
    AutoTokenizer.from_pretrained(str(output))  # what was written can be read
    console.print(f"{rejects.documents:,} documents, {characters:,} characters, {rejects.rejected:,} records unusable")
    if len(trained) < vocab_size:
        console.print(f"only {len(trained):,} tokens: the text holds too few pairs for vocab_size={vocab_size:,}")
    if rejects.rejected:
        console.print(f"unusable records: {rejects.path}")
    console.print(f"tokenizer of {len(trained):,} tokens in {output}")
