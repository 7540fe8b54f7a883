"""Which of two facts came first in a long text: read whole by a model trained on 512 tokens, or in chunks.

    pip install -c constraints.txt -e '.[weights]'
    python benchmarks/which_came_first.py [--runs DIR]

A text opens with a question ("who came first, anna or ben?"), goes on with pages of novels, and says at three random
places that somebody came. A model answers by the token that it scores highest; chance is one half, as the third is not
asked for. Positions repeat every 512 tokens, so they cannot tell which of two distant facts came first. So each token
is also told its place: the text is divided into 32 parts, and the number of the part is its token type. In training,
positions jump and parts are of random lengths, so that the places alone decide; without this, what was learnt at one
length was lost at another (docs/log.md). all-MiniLM-L6-v2 learns it by softmax attention; made linear with its weights
as they are, it reads all of a text, as in ``passkey.py``: 128 slots, a window of 16, the question global, and
``trained_length=512``. Controls: without places, and without ``trained_length``. Chunks of 512 are given the question,
and places in the whole text or in the chunk. Nothing is trained on longer texts. Trained models are kept in ``--runs``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from passkey import (
    CHUNK,
    LENGTHS,
    MINILM,
    NAMES,
    READING,
    ROOT,
    Reader,
    Stage,
    Texts,
    all_pages,
    compare,
    quiet_tokenizer,
    trained,
)
from rich.console import Console
from small_training import write_results
from torch import Tensor
from transformers import AutoModelForQuestionAnswering

from linformers import linearise

PLACES = 32
STAGES = (Stage(64, 32, 300, 2e-4), Stage(128, 32, 50, 1e-4), Stage(256, 16, 50, 1e-4), Stage(CHUNK, 16, 50, 7e-5))


class Comings(Texts):
    """Who came first, and pages; the label is where the one stands that did."""

    def make(self, row: int) -> tuple[list[int], int]:
        """Token ids of one text, with those around it, and the place of the answer."""
        rng = np.random.default_rng([self.seed, row])
        names = [str(name) for name in rng.choice(NAMES.split(), 3, replace=False)]
        order = rng.permutation(3).tolist()
        first = names[0] if order.index(0) < order.index(1) else names[1]
        parts = [self.ids(f"then {names[number]} came .") for number in order]
        found = self.scatter(f"who came first , {names[0]} or {names[1]} ?", parts, rng)
        (answer,) = self.ids(first)
        return found, found.index(answer, found.index(self.tokenizer.sep_token_id))

    def batch(self, rows: Sequence[int], training: bool) -> dict[str, Tensor]:
        """Some of them, with positions that jump and places of random lengths."""
        rngs = [np.random.default_rng([self.seed, 7, int(row)]) for row in rows]
        extra = {"position_ids": self.jumping, "token_type_ids": self.random_places}
        made = {name: torch.from_numpy(np.stack([make(rng) for rng in rngs])) for name, make in extra.items()}
        return super().batch(rows, training) | made

    def jumping(self, rng: np.random.Generator) -> np.ndarray:
        """Positions that go on from anywhere, up to four times; the first stay what they are."""
        cuts = [0, *np.sort(rng.integers(1, self.length, rng.integers(0, 5))).tolist(), self.length]
        parts = [
            np.arange(end - start) + (rng.integers(CHUNK) if start else 0)
            for start, end in zip(cuts, cuts[1:], strict=False)
        ]
        return np.concatenate(parts) % CHUNK

    def random_places(self, rng: np.random.Generator) -> np.ndarray:
        """Places of a rising order; of three texts in ten, those of parts of the same length."""
        if rng.random() < 0.3:
            return places(self.length)
        ends = np.sort(rng.integers(1, self.length, PLACES - 1))
        return np.searchsorted(ends, np.arange(self.length), side="right")


def places(length: int) -> np.ndarray:
    """The number of the part that each token of a text is in."""
    return np.arange(length) * PLACES // length


def with_places() -> Any:
    """MiniLM with a token type for each place: its own, and a wave that tells them apart."""
    model = AutoModelForQuestionAnswering.from_pretrained(
        MINILM,
        type_vocab_size=PLACES,
        ignore_mismatched_sizes=True,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    own = AutoModelForQuestionAnswering.from_pretrained(MINILM).bert.embeddings.token_type_embeddings.weight[0]
    size = model.config.hidden_size
    angles = torch.arange(PLACES)[:, None] / PLACES * torch.pi * PLACES ** (torch.arange(0, size, 2) / size)
    with torch.no_grad():
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        model.bert.embeddings.token_type_embeddings.weight.copy_(own + 0.02 * waves)
    return model


# --- readers


def scores_of(model: Any, ids: list[int], kinds: np.ndarray) -> Tensor:
    """How much each token is the answer."""
    found = model(input_ids=torch.tensor([ids]), token_type_ids=torch.from_numpy(kinds)[None])
    return (found.start_logits + found.end_logits)[0]


def whole(model: Any, told: bool = True) -> Reader:
    """Reads all in one pass; each token is told its place, or the first."""

    def read(ids: list[int]) -> int:
        return ids[int(scores_of(model, ids, places(len(ids)) * told).argmax())]

    return read


def chunks(model: Any, separator: int, of_the_whole: bool) -> Reader:
    """Reads pieces of 512 tokens, each behind the question, with places in the whole or in the piece."""

    def read(ids: list[int]) -> int:
        opening, kinds = ids.index(separator) + 1, places(len(ids))
        size = CHUNK - opening - 1
        best = []
        for start in range(opening, len(ids) - 1, size):
            piece = np.r_[:opening, start : min(start + size, len(ids) - 1), len(ids) - 1]
            some = [ids[place] for place in piece]
            scores = scores_of(model, some, kinds[piece] if of_the_whole else places(len(piece)))
            best.append((float(scores.max()), some[int(scores.argmax())]))
        return max(best)[1]

    return read


def main() -> None:
    """Train, read, and write results/which_came_first.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/which_came_first"))
    parser.add_argument("--texts", type=int, default=24, help="to test on, at each length; half of it beyond 2,048")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    tokenizer = quiet_tokenizer()
    pages, separator = all_pages(tokenizer), tokenizer.sep_token_id

    def make(length: int, count: int, *, seed: int, part: str) -> Comings:
        return Comings(length, count, seed, tokenizer, pages[part])

    model, seconds = trained(options.runs, with_places, STAGES, 31, make, console)
    linear = linearise(model, trained_length=CHUNK, **READING)
    readers = {
        "made linear, reads all": whole(linear),
        "control: the same without places": whole(linear, told=False),
        "control: the same without trained_length": whole(linearise(model, **READING)),
        "chunks of 512, each given the question": chunks(model, separator, of_the_whole=False),
        "the same, with places in the whole text": chunks(model, separator, of_the_whole=True),
    }
    counts = {length: options.texts if length <= 2048 else options.texts // 2 for length in LENGTHS}
    write_results(
        options.output / "which_came_first.json",
        console,
        torch.device("cpu"),
        chance=1 / 2,  # one of the two that are asked for
        training_seconds=seconds,
        rows=compare(readers, counts, make, console),
    )


if __name__ == "__main__":
    main()
