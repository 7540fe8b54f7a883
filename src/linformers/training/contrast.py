"""What an encoder learns about long texts from plain text: to be found by what is said in them.

A passage is read whole; its vectors are the means of its segments, and of all. Queries are stretches of a segment with
words left out, as in Contriever (Izacard et al., arXiv 2112.09118); some begin with words that stand only elsewhere in
the passage, so that a segment's vector must also say what the passage is about. Each query is to be nearest to its own
segment among all segments of the batch, and to its own passage among all passages (InfoNCE, arXiv 1807.03748). An
anchor holds vectors near those that the encoder gave to each segment read by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from linformers.data.padding import PadBatch
from linformers.training.engine import Batch, Objective

KEPT = (1.0, 0.8, 0.5)  # shares of the words of a stretch that a query keeps, alike often
STRETCH = (8, 60)  # tokens of a stretch
SHORTEST_SEGMENT = 24  # tokens, below which no query is made of it
FOREIGN_SHARE, FOREIGN_WORDS = 0.3, 3  # queries with words from elsewhere, and the most of them
DISTINCTIVE = 12  # words of a passage that set it apart
RARE, FREQUENT = 3, 1e-3  # a word that sets apart is seen so often at least, and is at most this share of all


class Queries:
    """Makes queries for segments from their own tokens.

    Args:
        counts: How often each token of the vocabulary is seen in the texts.
        special: Tokens that are no text.
        longest: Tokens of the longest query.
    """

    def __init__(self, counts: np.ndarray, special: Sequence[int], longest: int) -> None:
        total = max(1, int(counts.sum()))
        self.weights: np.ndarray = np.log(total / np.maximum(counts, 1))
        self.weights[(counts < RARE) | (counts > max(RARE, FREQUENT * total))] = 0
        self.special: np.ndarray = np.asarray(sorted(special))
        self.longest = longest

    def text(self, ids: np.ndarray) -> np.ndarray:
        """The tokens that are text."""
        return ids[~np.isin(ids, self.special)]

    def distinctive(self, ids: np.ndarray) -> np.ndarray:
        """The tokens that set a text apart, by how often they are here and how seldom elsewhere (tf-idf)."""
        words, here = np.unique(ids, return_counts=True)
        weights = here * self.weights[words]
        best = np.argsort(-weights, kind="stable")[:DISTINCTIVE]
        return words[best[weights[best] > 0]]

    def draw(self, segments: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[list[np.ndarray], list[int]]:
        """A query for each segment that is long enough, and the number of its segment."""
        queries, numbers = [], []
        texts = [self.text(ids) for ids in segments]
        for number, ids in enumerate(texts):
            if len(ids) < SHORTEST_SEGMENT:
                continue
            size = int(rng.integers(STRETCH[0], min(STRETCH[1], self.longest - FOREIGN_WORDS) + 1))
            start = int(rng.integers(0, max(1, len(ids) - size)))
            stretch = ids[start : start + size]
            query = stretch[rng.random(len(stretch)) < rng.choice(KEPT)]
            query = query if len(query) else stretch[:1]
            elsewhere = [other for i, other in enumerate(texts) if abs(i - number) > 1]
            if elsewhere and rng.random() < FOREIGN_SHARE:
                words = rng.permutation(self.distinctive(np.concatenate(elsewhere)))
                query = np.concatenate([words[: int(rng.integers(1, FOREIGN_WORDS + 1))], query])
            queries.append(query)
            numbers.append(number)
        return queries, numbers


class PassageVectors(NamedTuple):
    """Of all segments of a batch in their order, and of its passages; of length 1."""

    segments: Float[Tensor, "segments hidden"]
    passages: Float[Tensor, "passages hidden"]


class Questions(NamedTuple):
    """Vectors of queries, of length 1, and the numbers of the segments and passages that they are made of."""

    vectors: Float[Tensor, "queries hidden"]
    segments: Int[Tensor, " queries"]
    passages: Int[Tensor, " queries"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What counts for how much in the loss.

    Args:
        passage: Weight of finding the passage, beside that of finding the segment.
        anchor: Weight of the distance (1 - cosine) from vectors of segments read by themselves.
        temperature: What similarities are divided by.
    """

    passage: float = 0.5
    anchor: float = 1.0
    temperature: float = 0.05


class Contrast(Objective):
    """Vectors of segments and passages by which queries find them.

    Args:
        teacher: The encoder as it was, without gradients, which reads every segment by itself.
        evaluation: Batches of held-out passages.
        queries: Makes the queries.
        segment_length: Tokens of a segment.
        first: Token that opens a text.
        last: Token that closes it.
        pad: Makes batches.
        weights: What counts for how much.
        seed: Seed of the queries.
        device: Where the models are.
    """

    evaluation: Sequence[Batch]
    queries: Queries
    weights: Weights
    seed: int
    segment_length: int
    first: int
    last: int
    pad: PadBatch

    def __init__(
        self,
        teacher: PreTrainedModel,
        evaluation: Sequence[Batch],
        queries: Queries,
        *,
        segment_length: int,
        first: int,
        last: int,
        pad: PadBatch,
        weights: Weights,
        seed: int,
        device: torch.device,
    ) -> None:
        self.teacher: PreTrainedModel = teacher.to(device)  # type: ignore[arg-type]  (a decorator hides the signature)
        self.evaluation, self.queries, self.weights, self.seed = evaluation, queries, weights, seed
        self.segment_length, self.first, self.last, self.pad = segment_length, first, last, pad
        self.device = device

    def loss(self, model: nn.Module, batch: Batch, items: int, step: int) -> Tensor:
        """InfoNCE of segments and passages, and the anchor; without dropout."""
        model.eval()
        rng = np.random.default_rng((self.seed, step, int(batch["input_ids"][0, 1])))
        read = self._read(model, batch)
        alone = self._read_alone(batch)
        far = [1 - (a * b).sum(-1).mean() for a, b in zip(read, alone, strict=True)]
        loss = self.weights.anchor * torch.stack(far).sum()
        asked = self._ask(model, batch, read, rng)
        return (loss + self._info_nce(asked, read) if len(asked.vectors) else loss) / items

    @property
    def measurable(self) -> bool:
        """Whether any query can be made of the held-out passages."""
        some = (row for batch in self.evaluation for row in self._segments(batch))
        return any(len(self.queries.text(ids)) >= SHORTEST_SEGMENT for row in some for ids in row)

    @torch.no_grad()
    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """The loss without the anchor, and the mean reciprocal rank of held-out ``segments`` and ``passages``.

        Every query is compared with those of all held-out batches.
        """
        return self._measured(model, self._read)

    @torch.no_grad()
    def measure_alone(self) -> dict[str, float]:
        """The same of the encoder as it was, which reads every segment by itself."""
        return self._measured(self.teacher, lambda model, batch: self._read_alone(batch))

    def _measured(self, model: nn.Module, read: Callable[[nn.Module, Batch], PassageVectors]) -> dict[str, float]:
        vectors, asked, losses = [], [], []
        for number, batch in enumerate(self.evaluation):
            some = read(model, batch)
            questions = self._ask(model, batch, some, np.random.default_rng((self.seed, number)))
            if len(questions.vectors):
                losses.append(self._info_nce(questions, some).item())
                vectors.append(some)
                asked.append(questions)
        ends = np.cumsum([[len(some.segments), len(some.passages)] for some in vectors], axis=0)
        starts = [[0, 0], *ends[:-1].tolist()]
        questions = torch.cat([some.vectors for some in asked])
        segments = torch.cat([some.segments + start for some, (start, _) in zip(asked, starts, strict=True)])
        passages = torch.cat([some.passages + start for some, (_, start) in zip(asked, starts, strict=True)])

        def mean_rank(name: str, own: Tensor) -> float:
            return float(reciprocal_rank(questions @ torch.cat([getattr(x, name) for x in vectors]).T, own).mean())

        return {
            "loss": float(np.mean(losses)),
            "segments": mean_rank("segments", segments),
            "passages": mean_rank("passages", passages),
        }

    def _rows(self, batch: Batch, x: Tensor) -> list[Tensor]:
        """What is no padding, of each passage."""
        keep = batch.get("attention_mask")
        return list(x) if keep is None else [row[kept] for row, kept in zip(x, keep, strict=True)]

    def _segments(self, batch: Batch) -> list[list[np.ndarray]]:
        """The tokens of each segment of each passage."""
        rows = self._rows(batch, batch["input_ids"])
        return [[part.cpu().numpy() for part in row.split(self.segment_length)] for row in rows]

    def _states(self, model: nn.Module, batch: Batch) -> list[Float[Tensor, "tokens hidden"]]:
        """The last hidden states of each text."""
        inputs = {name: x.to(self.device) for name, x in batch.items() if name != "labels"}
        return self._rows(inputs, model(**inputs).last_hidden_state)

    def _read(self, model: nn.Module, batch: Batch) -> PassageVectors:
        """Passages read whole."""
        rows = self._states(model, batch)
        segments = [part.mean(0) for row in rows for part in row.split(self.segment_length)]
        return PassageVectors(*(F.normalize(torch.stack(x), dim=-1) for x in (segments, [row.mean(0) for row in rows])))

    @torch.no_grad()
    def _read_alone(self, batch: Batch) -> PassageVectors:
        """Each segment read by itself, with the tokens that open and close a text; passages are means of segments."""
        segments = self._segments(batch)
        bodies = [self.queries.text(ids)[: self.segment_length - 2] for row in segments for ids in row]
        vectors = self._short(self.teacher, bodies)
        passages = torch.stack([part.mean(0) for part in vectors.split([len(row) for row in segments])])
        return PassageVectors(vectors, F.normalize(passages, dim=-1))

    def _short(self, model: nn.Module, bodies: Sequence[np.ndarray]) -> Float[Tensor, "texts hidden"]:
        """Vectors of short texts, each opened and closed."""
        rows = [np.concatenate([[self.first], ids, [self.last]]).astype(np.int64) for ids in bodies]
        states = self._states(model, self.pad([{"input_ids": torch.from_numpy(row)} for row in rows]))
        return F.normalize(torch.stack([row.mean(0) for row in states]), dim=-1)

    def _ask(self, model: nn.Module, batch: Batch, read: PassageVectors, rng: np.random.Generator) -> Questions:
        """Queries for the segments of a batch, read by the same model."""
        bodies: list[np.ndarray] = []
        segments, passages, start = [], [], 0
        for passage, row in enumerate(self._segments(batch)):
            queries, numbers = self.queries.draw(row, rng)
            bodies += queries
            segments += [start + number for number in numbers]
            passages += [passage] * len(numbers)
            start += len(row)
        vectors = self._short(model, bodies) if bodies else read.segments[:0]
        return Questions(
            vectors, *(torch.tensor(x, dtype=torch.long, device=self.device) for x in (segments, passages))
        )

    def _info_nce(self, asked: Questions, read: PassageVectors) -> Tensor:
        heat = self.weights.temperature
        of_segments = F.cross_entropy(asked.vectors @ read.segments.T / heat, asked.segments)
        return of_segments + self.weights.passage * F.cross_entropy(
            asked.vectors @ read.passages.T / heat, asked.passages
        )


def reciprocal_rank(
    similarities: Float[Tensor, "queries items"], own: Int[Tensor, " queries"]
) -> Float[Tensor, " queries"]:
    """1 / rank of each query's own item."""
    return 1 / (similarities >= similarities.gather(1, own[:, None])).sum(1)
