"""Models on CUDA: equal to the CPU, streamed or whole, compiled or not; memory and time grow with n, not n squared."""

import copy

import pytest
import torch
from model_helpers import TINY, VARIANTS, make_batch

import linformers
from linformers.models import LinformerConfig

pytestmark = pytest.mark.gpu


@pytest.fixture
def batch():
    return make_batch()


def logits_and_gradients(model, batch, device):
    model = copy.deepcopy(model).to(device)
    real = batch["attention_mask"].bool().to(device)
    batch = {name: value.to(device) for name, value in batch.items()}
    logits = model(**batch, return_logits=True).logits[real]
    logits.sin().sum().backward()
    return [logits.detach().cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("chunk", [None, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_equals_the_cpu(variant, chunk, batch):
    torch.manual_seed(0)
    config = LinformerConfig(**{**TINY, **VARIANTS[variant], "stream_chunk_size": chunk})
    model = linformers.LinformerForMaskedLM(config).double()
    expected, got = (logits_and_gradients(model, batch, device) for device in ("cpu", "cuda"))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [None, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_inference_equals_the_cpu(variant, chunk, batch):
    config = LinformerConfig(**{**TINY, **VARIANTS[variant], "stream_chunk_size": chunk})
    torch.manual_seed(0)
    model = linformers.LinformerModel(config).double().eval()
    real = batch["attention_mask"].bool()
    with torch.inference_mode():
        expected = model(**batch).last_hidden_state[real]
        got = model.cuda()(**{name: value.cuda() for name, value in batch.items()}).last_hidden_state.cpu()[real]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["linear", "mean_pool_window", "kfree"])
def test_compiled_at_any_length(variant):
    torch.manual_seed(0)
    model = linformers.LinformerModel(LinformerConfig(**{**TINY, **VARIANTS[variant]})).cuda().eval()
    compiled = torch.compile(model, dynamic=True)
    with torch.inference_mode():
        for length in (40, 9, 23):
            tokens = torch.randint(5, 120, (2, length), device="cuda")
            expected, got = (run(tokens).last_hidden_state for run in (model, compiled))
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def peak_and_seconds(model, length):
    tokens = torch.randint(5, 120, (1, length), device="cuda")
    times = []
    with torch.inference_mode():
        for _ in range(5):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            model(tokens)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
    return torch.cuda.max_memory_allocated() - before, sorted(times)[2]


def test_a_long_sequence_costs_in_proportion():
    """From 65,536 to 262,144 tokens: four times the memory and the time, and 30 % for noise."""
    sizes = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048, "projected_dim": 256}
    pooled = {"max_position_embeddings": 262144, "projection_kind": "mean_pool"}
    config = LinformerConfig(**{**TINY, **sizes, **pooled})
    model = linformers.LinformerModel(config).bfloat16().cuda().eval()
    short, long = (peak_and_seconds(model, length) for length in (65536, 262144))
    assert long[0] <= 4 * 1.3 * short[0]
    assert long[1] <= 4 * 1.3 * short[1]
