"""A streamed layer computes what the whole one computes, in less memory."""

import pytest
import torch
from model_helpers import VARIANTS

import linformers


def run(config, batch, **options):
    torch.manual_seed(0)
    model = linformers.LinformerForMaskedLM(config).double()
    output = model(**batch, return_logits=True, **options)
    real = batch["attention_mask"].bool()
    (output.logits[real].sin()).sum().backward()
    return output, {name: p.grad for name, p in model.named_parameters()}, model


@pytest.mark.parametrize("chunk", [1, 8, 36])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_gradients_do_not_depend_on_the_chunk(variant, chunk, tiny_config, batch):
    whole, gradients, model = run(tiny_config(**VARIANTS[variant]), batch)
    real = batch["attention_mask"].bool()
    streamed, streamed_gradients, streaming = run(tiny_config(**VARIANTS[variant], stream_chunk_size=chunk), batch)
    torch.testing.assert_close(streamed.logits[real], whole.logits[real], rtol=0, atol=1e-10)
    torch.testing.assert_close(streamed_gradients, gradients, rtol=0, atol=1e-10)
    with torch.no_grad():
        kept = streaming(**batch, output_hidden_states=True).hidden_states
        expected = model(**batch, output_hidden_states=True).hidden_states
    for a, b in zip(kept, expected, strict=True):
        torch.testing.assert_close(a[real], b[real], rtol=0, atol=1e-10)


def test_dropout_is_the_same_when_recomputed(tiny_config, batch):
    config = tiny_config(stream_chunk_size=8, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    torch.manual_seed(0)
    model = linformers.LinformerForMaskedLM(config).double().train()
    embeddings = torch.randn(3, 37, 32, dtype=torch.float64)

    def loss(x):
        torch.manual_seed(1)
        return model(inputs_embeds=x, return_logits=True).logits.sin().mean()

    x = embeddings.clone().requires_grad_()
    loss(x).backward()
    direction = torch.randn_like(embeddings)
    step = 1e-6
    with torch.enable_grad():
        slope = (loss(embeddings + step * direction) - loss(embeddings - step * direction)) / (2 * step)
    torch.testing.assert_close((x.grad * direction).sum(), slope.detach(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_masked_lm_loss_by_chunks(chunk, tiny_config, batch):
    losses, gradients = [], []
    labels = batch["input_ids"].masked_fill(torch.arange(37) % 3 > 0, -100)
    for size in (None, chunk):
        torch.manual_seed(0)
        model = linformers.LinformerForMaskedLM(tiny_config(stream_chunk_size=size))
        loss = model(**batch, labels=labels).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_inputs_are_left_alone(tiny_config, batch):
    model = linformers.LinformerModel(tiny_config(stream_chunk_size=8)).eval()
    embeddings = torch.randn(3, 37, 32)
    before = embeddings.clone()
    with torch.no_grad():
        first = model(inputs_embeds=embeddings).last_hidden_state
        second = model(inputs_embeds=embeddings).last_hidden_state
    assert torch.equal(embeddings, before) and torch.equal(first, second)
