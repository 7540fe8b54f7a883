"""Classifiers of a few thousand weights, files to score with them, and what must come out whatever happens."""

import gzip
import io
import json
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from finetune_helpers import BAD, GOOD, make_model, sentence

LABELS = ["ham", "spam"]


def make_classifier(folder: Path, kind: str = "linformer", labels: int = 2, **fields: Any) -> Path:
    """A classifier with random weights that tells texts apart a little, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    import linformers  # noqa: F401

    make_model(folder, kind)
    names = {} if labels != 2 else {"id2label": dict(enumerate(LABELS)), "label2id": {"ham": 0, "spam": 1}}
    config = AutoConfig.from_pretrained(folder, num_labels=labels, initializer_range=0.5, **names, **fields)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def make_tagger(folder: Path, kind: str = "linformer", **fields: Any) -> Path:
    """A token classifier with random weights, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    import linformers  # noqa: F401

    make_model(folder, kind)
    names = {"id2label": dict(enumerate(TAGS)), "label2id": {name: place for place, name in enumerate(TAGS)}}
    config = AutoConfig.from_pretrained(folder, initializer_range=0.5, **names, **fields)
    torch.manual_seed(0)
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    return folder


def texts(count: int, seed: float = 0) -> list[str]:
    """Texts of few words, and of more than the 64 tokens that the model reads."""
    rng = random.Random(seed)
    return [
        " ".join(sentence(rng, rng.choice((BAD, GOOD))) for _ in range(rng.choice((1, 1, 2, 9)))) for _ in range(count)
    ]


def write_documents(folder: Path, rows: int = 60) -> Path:
    """A file of each format, with some bad rows: ``bad_rows`` of ``3 * rows + 4`` in all."""
    folder.mkdir()
    table = pa.table({"id": range(rows), "text": [*texts(rows - 1), None]})
    pq.write_table(table, folder / "a.parquet", row_group_size=25)
    lines = [json.dumps({"id": 1000 + i, "text": text}) for i, text in enumerate(texts(rows, 1))]
    lines[3:3] = ["{broken", '{"id": 1, "text": 5}']
    (folder / "b.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    body = "".join(f'{2000 + i},"{text}"\n' for i, text in enumerate(texts(rows, 2)))
    (folder / "c.csv").write_bytes(f"id,text\n{body}".encode() + b"1,\xff\n7,8,9\n")
    return folder


BAD_ROWS = 5


def read_scores(output: Path, shards: str = "scores") -> list[dict[str, Any]]:
    """All rows of all shards, in order."""
    found = []
    for path in sorted((output / shards).glob("*/[0-9]*")):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        else:
            found += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def fingerprint(output: Path, shards: str = "scores") -> dict[str, bytes]:
    """All that must not depend on kills, by file: shards and rejects."""
    paths = [*(output / shards).glob("*/[0-9]*"), output / "rejects.jsonl"]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def embed(options: dict[str, Any], die_at_flush: int | None = None, late: float = 0.0) -> None:
    """`score`, for ``EmbedSettings``."""
    score(options, die_at_flush, late, embeds=True)


def score(options: dict[str, Any], die_at_flush: int | None = None, late: float = 0.0, *, embeds: bool = False) -> None:
    """What a process runs; it may kill itself.

    Args:
        options: of ``ScoreSettings``.
        die_at_flush: the death comes when it flushes so many files or folders,
        late: or later, by this share of the time since the flush before, whatever it does then.
        embeds: vectors, not scores.
    """
    import torch
    from pretrain_helpers import count_calls, kill
    from rich.console import Console

    torch.set_num_threads(1)
    from linformers.commands.embed import run_embed
    from linformers.commands.score import run_score
    from linformers.files import folders
    from linformers.scoring.settings import EmbedSettings, ScoreSettings

    def die(last: float) -> None:
        if late:
            threading.Timer(late * last, kill, [signal.SIGKILL]).start()
        else:
            kill(signal.SIGKILL)

    if die_at_flush is not None:
        count_calls(folders, "flush", die_at_flush, die)
    if embeds:
        run_embed(EmbedSettings(**options), Console(quiet=True))
    else:
        run_score(ScoreSettings(**options), Console(quiet=True))


def _jsonl(rng: random.Random, labelled: bool) -> bytes:
    found = enumerate(texts(rng.randint(1, 12), rng.random()))
    lines = [json.dumps({"text": text} | ({"label": LABELS[i % 2]} if labelled else {})) for i, text in found]
    return ("\n".join(lines) + "\n" * rng.randint(0, 1)).encode()


def _csv(rng: random.Random, labelled: bool) -> bytes:
    last = [*LABELS * 4] if labelled else range(8)
    rows = "".join(f'"{text}",{one}\n' for text, one in zip(texts(8, rng.random()), last, strict=True))
    return (f"text,{'label' if labelled else 'n'}\n" + rows).encode()


def _parquet(rng: random.Random, labelled: bool) -> bytes:
    buffer = io.BytesIO()
    found = pa.table({"text": texts(rng.randint(1, 40), rng.random())})
    if labelled:
        found = found.append_column("label", pa.array([LABELS[i % 2] for i in range(len(found))]))
    packing = rng.choice(("none", "snappy", "zstd"))
    pq.write_table(
        found, buffer, row_group_size=rng.randint(1, 20), compression=packing, use_dictionary=rng.random() < 0.5
    )
    return buffer.getvalue()


def _text(rng: random.Random, labelled: bool) -> bytes:
    return "\n".join(texts(5, rng.random())).encode()


MAKERS: dict[str, Callable[[random.Random, bool], bytes]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": lambda rng, labelled: _csv(rng, labelled).replace(b",", b"\t"),
    "parquet": _parquet,
    "txt": _text,
    "jsonl.gz": lambda rng, labelled: gzip.compress(_jsonl(rng, labelled)),
    "csv.zst": lambda rng, labelled: pa.compress(_csv(rng, labelled), codec="zstd", asbytes=True),
}


def _wrong_schema(rng: random.Random) -> bytes:
    return rng.choice(
        (b'{"body": "x"}\n', b"[1, 2]\n", b"a,b\n1,2\n", b"\n\n\n", b"", b"PAR1PAR1", b"text\n", b"text,text\na,b\n")
    )


def _insert(rng: random.Random, data: bytes, *pieces: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.choice(pieces) + data[place:]


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "none": lambda rng, data: data,
    "truncated": lambda rng, data: data[: rng.randint(0, len(data))],
    "flipped": lambda rng, data: bytes(b ^ (rng.random() < 0.01) * rng.randint(1, 255) for b in data),
    "broken": lambda rng, data: _insert(
        rng, data, b'"', b"{", b"\n", b"\r", b"]" * 50, b"[" * 9000, b'{"text": 5}\n', b"\\ud800"
    ),
    "null bytes": lambda rng, data: _insert(rng, data, b"\0", b"\0" * 1000),
    "not UTF-8": lambda rng, data: _insert(rng, data, b"\xff", b"\xc3", b"\xed\xa0\x80"),
    "encoded": lambda rng, data: data.decode("latin-1").encode(rng.choice(("utf-16", "utf-32", "utf-7"))),
    "huge": lambda rng, data: _insert(rng, data, b"x" * 20_000, b"word " * 20_000, b"9" * 20_000),
    "schema": lambda rng, data: _wrong_schema(rng),
    "noise": lambda rng, data: rng.randbytes(rng.randint(0, 2000)),
}


def damaged(rng: random.Random, folder: Path, number: int, *, labelled: bool = False) -> Path:
    """A file of some format with some damage (also: two damages, or none); with labels, where asked for."""
    suffix, kind = rng.choice(list(MAKERS)), rng.choice(list(DAMAGES))
    data = DAMAGES[kind](rng, MAKERS[suffix](rng, labelled))
    if rng.random() < 0.3:
        data = rng.choice(list(DAMAGES.values()))(rng, data)
    path = folder / f"{number:04}-{kind.replace(' ', '-')}.{suffix}"
    path.write_bytes(data)
    return path
