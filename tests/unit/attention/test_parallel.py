"""Sequence parallelism on two and three processes (gloo): outputs and all gradients equal one process's."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from linformers import LinformerConfig, LinformerForMaskedLM
from linformers.attention import LinformerAttention, SoftmaxAttention, linformer
from linformers.attention.parallel import SequenceShard, sequence_parallel

VARIANTS = [
    {"projection_kind": "linear"},
    {"projection_kind": "linear", "projection_sharing": "none"},
    {"projection_kind": "linear", "projection_sharing": "layerwise", "norm_position": "pre"},
    {"projection_kind": "mean_pool"},
    {"projection_kind": "conv", "projection_sharing": "headwise"},
    {"projection_kind": "conv", "projection_sharing": "none"},
    {"projection_kind": "linear", "projection_sharing": "none", "local_window": 3},
    {"projection_kind": "mean_pool", "local_window": 9, "global_tokens": 1},
    {"projection_kind": "conv", "local_window": 2, "global_tokens": 6},
    {"projection_kind": "linear", "projection_sharing": "headwise", "global_tokens": 2, "stream_chunk_size": 5},
    {"projection_kind": "mean_pool", "local_window": 4, "global_tokens": 1, "stream_chunk_size": 4},
    {"projection_kind": "attention_pool", "local_window": 4, "global_tokens": 1},
    {"projection_kind": "cluster", "global_tokens": 1},
    {"projection_kind": "cluster", "exact_length": 20, "stream_chunk_size": 5},
    {"projection_kind": "cluster", "local_window": 2, "global_tokens": 1, "stream_chunk_size": 7},
    {"attention_type": "kfree"},
    {"attention_type": ["kfree", "linformer"], "stream_chunk_size": 5},
]


def _run(rank, world, port, work, arguments):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(rank, world, *arguments)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    # Threads of gloo that outlive its group abort some interpreters in their end, after all has passed.
    os._exit(0)


def on_processes(world, work, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run, args=(world, port, work, arguments), nprocs=world)


def build(variant):
    torch.manual_seed(0)
    config = LinformerConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        projected_dim=5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **variant,
    )
    return LinformerForMaskedLM(config).double()


def batch(seq, masked):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (3, seq), generator=generator)
    mask = torch.ones(3, seq, dtype=torch.bool)
    if masked:  # right padding, holes, and a document that ends in the first stretch
        mask[0, seq - 7 :] = False
        mask[1] = torch.rand(seq, generator=generator) > 0.3
        mask[2, 4:] = False
    labels = torch.where(mask & (torch.rand(3, seq, generator=generator) < 0.5), ids, -100)
    return ids, mask, labels


def equal_to_one_process(rank, world):
    # Between the sizes of the stretches: what is at once must not be decided by each process for itself.
    linformer.AT_ONCE_TOKENS = 60
    for variant in VARIANTS:
        for seq, masked in [(37, True), (64, False)]:
            ids, mask, labels = batch(seq, masked)
            items = (labels != -100).sum()
            model = build(variant)
            arguments = {"labels": labels, "num_items_in_batch": items, "return_logits": True}
            expected = model(ids, mask if masked else None, **arguments)
            # The loss of transformers is in float32; this one keeps float64 to the end.
            weight = torch.linspace(-1, 1, expected.logits.numel(), dtype=torch.float64).view_as(expected.logits)
            weight = weight * mask[..., None]
            (expected.logits * weight).sum().backward()
            gradients = {name: p.grad for name, p in model.named_parameters()}

            cuts = [round(seq * r**2 / world**2) for r in range(world + 1)]  # stretches of different lengths
            mine = slice(cuts[rank], cuts[rank + 1])
            model.zero_grad()
            with sequence_parallel(dist.group.WORLD):
                got = model(
                    ids[:, mine],
                    mask[:, mine] if masked else None,
                    labels=labels[:, mine],
                    num_items_in_batch=items,
                    return_logits=True,
                )
            real = mask[:, mine]
            torch.testing.assert_close(got.logits[real], expected.logits[:, mine][real], rtol=0, atol=1e-10)
            with torch.no_grad(), sequence_parallel(dist.group.WORLD):
                read = model(ids[:, mine], mask[:, mine] if masked else None).logits
            torch.testing.assert_close(read[real], expected.logits[:, mine][real], rtol=0, atol=1e-10)
            loss = got.loss.detach().clone()
            dist.all_reduce(loss)
            torch.testing.assert_close(loss, expected.loss.detach(), rtol=1e-5, atol=0)
            (got.logits * weight[:, mine]).sum().backward()
            for name, parameter in model.named_parameters():
                gradient = parameter.grad
                dist.all_reduce(gradient)
                torch.testing.assert_close(
                    gradient, gradients[name], rtol=0, atol=1e-10, msg=lambda m, n=name, v=variant: f"{v} {n}: {m}"
                )


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_outputs_and_gradients_equal_one_process(world):
    on_processes(world, equal_to_one_process)


def bytes_per_layer(attention, seq, world):
    sent = []
    original = dist.all_reduce

    def counting(tensor, *arguments, **options):
        sent.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    shard = SequenceShard(torch.ones(1, seq // world, dtype=torch.bool), dist.group.WORLD)
    dist.all_reduce = counting
    try:
        attention(torch.randn(1, seq // world, 16), shard)
    finally:
        dist.all_reduce = original
    return sent


def cost_and_refusals(rank, world):
    # One all-reduce of k x d numbers, however long the sequence.
    linear = LinformerAttention(16, 2, 512, 5)
    assert bytes_per_layer(linear, 64, world) == bytes_per_layer(linear, 512, world) == [5 * 16 * 4]
    # The sample that decides about clusters, and sums by slot: also no more for a longer sequence.
    cluster = LinformerAttention(16, 2, None, 5, projection_kind="cluster")
    assert sum(bytes_per_layer(cluster, 2048, world)) == sum(bytes_per_layer(cluster, 1024, world))

    shard = SequenceShard(torch.ones(1, 8, dtype=torch.bool), dist.group.WORLD)
    x = torch.randn(1, 8, 16)
    for attention, word in [
        (LinformerAttention(16, 2, 64, 4, projection_kind="max_pool"), "max_pool"),
        (SoftmaxAttention(16, 2), "LinformerAttention or KFreeAttention"),
        (LinformerAttention(16, 2, 15, 4), "16 tokens"),
    ]:
        with pytest.raises(ValueError, match=word):
            attention(x, shard)


def test_bytes_sent_and_what_cannot_be_cut():
    on_processes(2, cost_and_refusals)
