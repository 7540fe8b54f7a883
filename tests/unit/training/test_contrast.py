"""Queries made of passages, and the loss by which they find them."""

import copy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

import linformers
from linformers.data.padding import PadBatch
from linformers.training.contrast import Contrast, Queries, Weights, reciprocal_rank

WORDS, LENGTH, PAD = 300, 64, PadBatch(0)


def batch_of(texts):
    return PAD([{"input_ids": ids} for ids in texts])


def encoder(**settings):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    given = {"max_length": 512, "segment_length": LENGTH, "projected_dim": 8} | settings
    return linformers.linearise(BertModel(config).eval(), **given)


def passages(seed: int = 0, count: int = 3):
    rng = np.random.default_rng(seed)
    return [torch.tensor([1, *rng.integers(5, WORDS, n - 2), 2]) for n in (200, 150, 64)[:count]]


def objective(teacher, evaluation=(), **weights):
    counts = np.full(WORDS, 50)
    return Contrast(
        teacher,
        evaluation,
        Queries(counts, [0, 1, 2], LENGTH - 2),
        segment_length=LENGTH,
        first=1,
        last=2,
        pad=PAD,
        weights=Weights(**weights),
        seed=0,
        device=torch.device("cpu"),
    )


def test_queries_are_stretches_with_words_of_elsewhere():
    counts = np.full(WORDS, 1000)
    counts[100:110] = 5  # words that set apart
    queries = Queries(counts, [0, 1, 2], 40)
    segments = [np.arange(100, 110).repeat(5), np.arange(10, 70), np.arange(10, 70), np.arange(200, 260), np.arange(9)]
    seen = set()
    for seed in range(50):
        drawn, numbers = queries.draw(segments, np.random.default_rng(seed))
        assert numbers == [0, 1, 2, 3], "the last is too short"
        for ids, number in zip(drawn, numbers, strict=True):
            assert 0 < len(ids) <= 40
            foreign = ids[~np.isin(ids, segments[number])]
            assert len(foreign) <= 3 and (ids[len(foreign) :] == ids[np.isin(ids, segments[number])]).all()
            assert np.isin(foreign, np.arange(100, 110)).all(), "only words that set the passage apart"
            assert not len(foreign) or number in (2, 3), "not of the next segments"
            seen.add(len(foreign))
    assert seen == {0, 1, 2, 3}


def test_the_loss_is_its_formula():
    model, batch = encoder(), batch_of(passages())
    found = objective(teacher := copy.deepcopy(model).requires_grad_(False), passage=0.3, anchor=0.7, temperature=0.1)
    loss = found.loss(model, batch, 1, step=4)
    with torch.no_grad():
        segments, whole, alone, means = [], [], [], []
        for ids in passages():
            states = model(ids[None]).last_hidden_state[0]
            segments += [part.mean(0) for part in states.split(LENGTH)]
            whole.append(states.mean(0))
            own = []
            for part in ids.split(LENGTH):
                body = part[(part != 1) & (part != 2)][: LENGTH - 2]
                states = teacher(torch.cat([torch.tensor([1]), body, torch.tensor([2])])[None]).last_hidden_state[0]
                own.append(torch.nn.functional.normalize(states.mean(0), dim=0))
            alone += own
            means.append(torch.stack(own).mean(0))
        segments, whole, alone, means = (
            torch.nn.functional.normalize(torch.stack(x), dim=-1) for x in (segments, whole, alone, means)
        )
        rng = np.random.default_rng((0, 4, int(batch["input_ids"][0, 1])))
        expected, losses = 0.7 * ((1 - (segments * alone).sum(1)).mean() + (1 - (whole * means).sum(1)).mean()), []
        start = 0
        for number, ids in enumerate(passages()):
            parts = [part.numpy() for part in ids.split(LENGTH)]
            for query, segment in zip(*found.queries.draw(parts, rng), strict=True):
                states = model(torch.tensor([1, *query.tolist(), 2])[None]).last_hidden_state[0].mean(0)
                asked = torch.nn.functional.normalize(states, dim=0) / 0.1
                of_segment = -(segments @ asked).log_softmax(0)[start + segment]
                losses.append(of_segment - 0.3 * (whole @ asked).log_softmax(0)[number])
            start += len(parts)
        expected = expected + torch.stack(losses).mean()
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "pooler" not in name)


def test_short_passages_have_no_queries_and_a_loss():
    model = encoder()
    batch = batch_of([torch.tensor([1, 7, 8, 2]), torch.tensor([1, 9, 2])])
    loss = objective(copy.deepcopy(model).requires_grad_(False)).loss(model, batch, 1, step=0)
    assert loss.isfinite() and loss < 0.1, "read as the teacher reads them"


def test_measured_over_all_batches():
    model = encoder()
    batches = [batch_of(passages(seed)) for seed in range(3)]
    found = objective(copy.deepcopy(model).requires_grad_(False), batches)
    for values in (found.measure(model), found.measure_alone()):
        assert values["loss"] > 0
        assert 1 / 24 < values["segments"] <= 1 and 1 / 9 < values["passages"] <= 1
    assert found.measure(model) == found.measure(model), "the same queries each time"


def test_reciprocal_rank_by_hand():
    similarities = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.5, 0.5, 0.4]])
    assert reciprocal_rank(similarities, torch.tensor([0, 1, 0])).tolist() == pytest.approx([1, 1 / 3, 1 / 2])
