"""Texts, or chunks of texts, through an encoder to vectors: read, pooled, normalised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from torch import Tensor

from linformers.data.tokenise import Located, TextEncoder, Tokens
from linformers.scoring.batches import run_batches
from linformers.scoring.chunks import Span, paragraphs, sentences, stretches, tokens_within
from linformers.scoring.networks import Network, load_network
from linformers.scoring.pooling import BEGINNING_SHARE, OF_PARTS, Part, Pool, Pooled, pool_parts, read_ranges, stored
from linformers.scoring.sentence import Sentences, normalized, read_sentences
from linformers.scoring.settings import VectorSettings


@dataclass(kw_only=True)
class Pieces:
    """What is read of some texts, and which tokens of it become which vector.

    Args:
        tokens: The pieces.
        parts: For each piece, what is pooled.
        texts: For each vector, the number of its text.
        chunks: For each vector, the number of its chunk in the text.
        spans: For each vector, the characters of its chunk.
        empty: Numbers of the texts without a vector.
        tokenless: How many chunks have no token, and so no vector.
        unread: How many chunks lie behind what is read of their text, and have no vector.
    """

    tokens: Tokens
    parts: list[list[Part]]
    texts: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    tokenless: int = 0
    unread: int = 0

    @property
    def count(self) -> int:
        """Tokens that are read."""
        return self.tokens.count

    def add(self, text: int, chunk: int, span: Span) -> None:
        """Note whose the next vector is."""
        self.texts.append(text)
        self.chunks.append(chunk)
        self.spans.append(span)


@dataclass(frozen=True)
class Vectors:
    """Vectors of some texts.

    Args:
        values: Vectors in the order of the texts and of their chunks, (vectors, dim); of ``binary`` bytes, eight
            numbers each.
        texts: For each vector, the number of its text; a text without a token has none.
        spans: For each vector, the first character of its chunk and the one behind the last, (vectors, 2).
    """

    values: Shaped[np.ndarray, "vectors stored"]
    texts: Int[np.ndarray, " vectors"]
    spans: Int[np.ndarray, "vectors 2"]


class Embedder:
    """An encoder and how it makes vectors of texts; see `VectorSettings`.

    Args:
        settings: The model, and how it is read.

    Attributes:
        dim: Numbers of a vector.
        modes: How tokens are pooled.
        normalizes: Whether vectors have length 1.

    Raises:
        ValueError: see ``load_network``, ``read_sentences`` and ``TextEncoder``; or an option that the model does not
            take.

    Example:
        ```python
        embedder = Embedder(VectorSettings(model="runs/linear", chunks="sentence"))
        found = embedder.vectors(["Berlin is in Germany. It is large."])
        print(found.values.shape, found.spans)  # two vectors
        ```
    """

    settings: VectorSettings
    network: Network
    dim: int

    def __init__(self, settings: VectorSettings) -> None:
        self.settings, self.network = settings, load_network(settings)
        self.sentences: Sentences = read_sentences(settings.model)
        self.modes: tuple[str, ...] = self.sentences.modes if settings.pooling is None else (settings.pooling,)
        if settings.in_context and (wrong := [mode for mode in self.modes if mode not in OF_PARTS]):
            whose = "" if settings.pooling else ", of the model's folder,"
            raise ValueError(
                f"pooling={wrong[0]!r}{whose} takes one token of a text, or weighs tokens by their place, which says "
                "nothing of a chunk in its document: give --pooling mean, or --context chunk"
            )
        if settings.beginning and "max" in self.modes:
            raise ValueError(
                f"beginning={settings.beginning} is a share of means, and pooling is max: give --pooling mean, or "
                "leave it out"
            )
        self.normalizes: bool = self.sentences.normalizes if settings.normalize is None else settings.normalize
        whole = self._through_layers(torch.zeros(1, len(self.modes) * self.network.hidden_size)).shape[1]
        if (settings.truncate_dim or 0) > whole:
            raise ValueError(f"truncate_dim={settings.truncate_dim} is more than the {whole} numbers of a vector")
        self.dim = settings.truncate_dim or whole
        self.ranges: np.ndarray | None = None if settings.ranges is None else read_ranges(settings.ranges, self.dim)
        tokenizer = self.network.tokenizer
        if self.sentences.lowercase and (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            backend.normalizer = Normalizers([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])
        self.encoder: TextEncoder = TextEncoder(tokenizer)
        self.prompt: str = self._find_prompt()
        self.lead: np.ndarray = self.encoder.ids([self.prompt])[0] if self.prompt else np.empty(0, np.int32)
        self.reading: dict[str, Any] = {
            "max_length": self.network.max_length,
            "pieces": None if settings.reading == "windows" else 1,
            "lead": self.lead,
        }
        self.encoder.windows([], **self.reading)  # refuses a length without room for text

    def _find_prompt(self) -> str:
        settings, known = self.settings, self.sentences.prompts
        if settings.prompt is not None:
            return settings.prompt
        name = self.sentences.default_prompt if settings.prompt_name is None else settings.prompt_name
        if name is not None and name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"prompt_name={name!r} is no prompt of the model: {there}")
        return known[name] if name is not None else ""

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the vectors."""
        return {
            "dim": self.dim,
            "dtype": self.settings.dtype,
            "pooling": list(self.modes),
            "pooling_from": "option" if self.settings.pooling else "folder" if self.sentences.known else "default",
            "normalized": self.normalizes,
            "prompt": self.prompt,
        }

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, in memory.

        Args:
            texts: Texts of any length.

        Raises:
            ValueError: int8 without ``ranges`` of an earlier run.
        """
        if self.settings.dtype == "int8" and self.ranges is None:
            raise ValueError("dtype='int8' has no ranges: give ranges, the output folder of an earlier run of embed")
        pieces = self.encode(texts)
        values = stored(self.embed(pieces), self.settings.dtype, self.ranges)
        spans = np.array(pieces.spans, np.int64).reshape(-1, 2)
        return Vectors(values, np.array(pieces.texts, np.int64), spans)

    # --- what is read

    def encode(self, texts: Sequence[str]) -> Pieces:
        """Token ids of texts, and which of them become which vector."""
        kind, _ = self.settings.chunking
        located = None
        if kind == "tokens" or self.settings.in_context:
            located = self.encoder.located([self.prompt + text for text in texts])
        if kind == "tokens":
            assert located is not None
            numbers, chunks = self._stretches(located)
        else:
            chunks = [self._chunks_of(text) for text in texts]
            numbers = [] if located is None else self._numbers(located, chunks)
        if self.settings.in_context:
            assert located is not None
            pieces = self._in_document(located, chunks, numbers)
        else:
            pieces = self._alone(texts, chunks)
        with_vector = set(pieces.texts)
        pieces.empty = [text for text in range(len(texts)) if text not in with_vector]
        return pieces

    def _chunks_of(self, text: str) -> list[Span]:
        match self.settings.chunks:
            case None:
                return [(0, len(text))]
            case "sentence":
                return sentences(text)
            case _:
                return paragraphs(text)

    def _stretches(self, located: Sequence[Located]) -> tuple[list[list[Span]], list[list[Span]]]:
        """Of each text the tokens of its chunks of so many, and their characters."""
        _, size = self.settings.chunking
        numbers, chunks = [], []
        for found in located:
            spans = found.spans - len(self.prompt)
            lead = _leading(spans)
            places = [(a + lead, b + lead) for a, b in stretches(len(spans) - lead, size, self.settings.overlap)]
            numbers.append(places)
            chunks.append([(max(int(spans[a, 0]), 0), int(spans[a:b, 1].max())) for a, b in places])
        return numbers, chunks

    def _numbers(self, located: Sequence[Located], chunks: Sequence[list[Span]]) -> list[list[Span]]:
        """Of each text the tokens that share a character with its chunks."""
        return [
            tokens_within(found.spans - len(self.prompt), of_text)
            for found, of_text in zip(located, chunks, strict=True)
        ]

    def _alone(self, texts: Sequence[str], chunks: Sequence[list[Span]]) -> Pieces:
        """Whole texts, or chunks that are read each by itself."""
        found = [(text, chunk, span) for text, spans in enumerate(chunks) for chunk, span in enumerate(spans)]
        own = [texts[text][start:end] for text, _, (start, end) in found]
        if self.prompt:  # which would give tokens to a text without any
            full = [bool(len(ids)) for ids in self.encoder.ids(own, 1)]
            found = [one for one, has in zip(found, full, strict=True) if has]
            own = [self.prompt + one for one, has in zip(own, full, strict=True) if has]
        tokens = self.encoder.windows(own, **self.reading)
        empty = set(tokens.empty)
        pieces = Pieces(tokens=tokens, parts=[])
        vectors: dict[int, int] = {}
        for place, one in enumerate(found):
            if place not in empty:
                vectors[place] = len(vectors)
                pieces.add(*one)
        for piece, owner in enumerate(tokens.owner.tolist()):
            pieces.parts.append([Part(vectors[owner], self._opening(tokens, piece), len(tokens.windows[piece]))])
        pieces.tokenless = sum(map(len, chunks)) - len(vectors)
        return pieces

    def _in_document(
        self, located: Sequence[Located], chunks: Sequence[list[Span]], numbers: Sequence[list[Span]]
    ) -> Pieces:
        """Chunks as parts of their document (late chunking).

        What stands before a piece of a text, special tokens and the prompt, goes to the first chunk of the piece, and
        what stands behind it to the last (section 4.1 of the paper). The first tokens of the text that are pooled into
        all its chunks stand behind the others in the lists of parts.
        """
        tokens = self.encoder.windows_of([one.ids for one in located], **self.reading)
        pieces = Pieces(tokens=tokens, parts=[[] for _ in tokens.windows])
        of_text: list[list[int]] = [[] for _ in located]
        for piece, owner in enumerate(tokens.owner.tolist()):
            of_text[owner].append(piece)
        of_beginning: list[list[Part]] = [[] for _ in tokens.windows]

        def add(parts: list[list[Part]], text: int, first: int, last: int) -> bool:
            """Tokens of a text, which may stand in several pieces, are a part of the next vector."""
            found = False
            for piece in of_text[text]:
                start, end = max(first, tokens.starts[piece]), min(last, tokens.ends[piece])
                if start < end:
                    shift = tokens.heads[piece] - tokens.starts[piece]
                    parts[piece].append(Part(len(pieces.texts), start + shift, end + shift))
                    found = True
            return found

        for text, places in enumerate(numbers):
            for chunk, (first, last) in enumerate(places):
                if add(pieces.parts, text, first, last):
                    opening = places[0][0]
                    add(of_beginning, text, opening, min(opening + self.settings.beginning, first))
                    pieces.add(text, chunk, chunks[text][chunk])
                elif first < last:
                    pieces.unread += 1
                else:
                    pieces.tokenless += 1
        for piece, parts in enumerate(pieces.parts):
            if parts:
                parts[0] = parts[0]._replace(first=self._opening(tokens, piece))
                parts[-1] = parts[-1]._replace(last=len(tokens.windows[piece]))
        own, seen = (_tokens_by_vector(parts, len(pieces.texts)) for parts in (pieces.parts, of_beginning))
        for parts, more in zip(pieces.parts, of_beginning, strict=True):
            for part in more:
                weight = BEGINNING_SHARE / (1 - BEGINNING_SHARE) * own[part.vector] / seen[part.vector]
                parts.append(part._replace(weight=weight))
        return pieces

    def _opening(self, tokens: Tokens, piece: int) -> int:
        """The first token of a piece that is pooled."""
        if self.sentences.include_prompt or not self.prompt:
            return 0
        behind = tokens.heads[piece] + (0 if tokens.starts[piece] else len(self.lead))
        return min(behind, len(tokens.windows[piece]) - 1)

    # --- what comes of it

    def embed(
        self, pieces: Pieces, seen: Callable[[int], None] = lambda tokens: None
    ) -> Float[np.ndarray, "vectors dim"]:
        """Vectors, in the order of `Pieces`.

        Args:
            pieces: What `encode` gives.
            seen: hears how many tokens more are done.
        """
        pool = Pool(self.modes, len(pieces.texts), self.network.hidden_size)

        def use(rows: list[int], logits: Any, states: Tensor | None, mask: Any) -> Pooled:
            assert states is not None
            return pool_parts(self.modes, [pieces.parts[row] for row in rows], states)

        for _, found in run_batches(self.network, pieces.tokens.windows, use, seen):
            pool.add(*found)
        vectors = self._through_layers(torch.from_numpy(pool.vectors()))[:, : self.dim]
        return (normalized(vectors) if self.normalizes else vectors).contiguous().numpy()

    def _through_layers(self, vectors: Tensor) -> Tensor:
        for layer in self.sentences.layers:
            vectors = layer(vectors)
        return vectors


def _tokens_by_vector(parts: Sequence[list[Part]], count: int) -> list[int]:
    """How many tokens are pooled for each vector."""
    found = [0] * count
    for part in (part for of_piece in parts for part in of_piece):
        found[part.vector] += part.last - part.first
    return found


def _leading(spans: np.ndarray) -> int:
    """How many tokens end before the text begins: those of the prompt."""
    return int((np.maximum.accumulate(spans[:, 1]) <= 0).sum()) if len(spans) else 0
