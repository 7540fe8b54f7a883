"""torch.compile without graph breaks, and torch.export with a dynamic batch and length."""

import pytest
import torch
from attention_helpers import KINDS, PATTERNS, hidden, make_kfree, make_linformer, make_mask, make_softmax
from torch import nn

pytestmark = [
    pytest.mark.compile,
    # PyTorch's own: deprecations inside its compiler and exporter.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LENGTH = 16
MODULES = {
    f"{kind}, {sharing}, window {w}": lambda kind=kind, sharing=sharing, w=w: make_linformer(
        kind, sharing, max_length=LENGTH, window=w
    )
    for kind, sharing, w in (
        ("linear", "key_value", 0),
        ("linear", "none", 2),
        ("mean_pool", "headwise", 2),
        ("max_pool", "key_value", 0),
        ("conv", "layerwise", 2),
    )
} | {"softmax": make_softmax, "kfree": make_kfree}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@every_module
def test_compile_forward_and_backward(make):
    """One graph, traced through autograd; `aot_eager` runs the traced operations without generating code."""
    module, x = make(), hidden(3, 13, 6).requires_grad_()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for mask in (None, make_mask("empty_row", 3, 13)):
        results = []
        for run in (module, compiled):
            output = run(x, mask)
            results.append([output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])])
        torch.testing.assert_close(*results)


@every_module
def test_compile_with_weights(make):
    module, x, mask = make(), hidden(3, 13, 6), make_mask("holes", 3, 13)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, mask, return_weights=True), module(x, mask, return_weights=True))


@pytest.mark.parametrize("kind", ["linear", "mean_pool"])
def test_compile_for_any_length(kind):
    """Marked dynamic, a module compiles once for all lengths."""
    module = make_linformer(kind, max_length=LENGTH, window=2)
    compiled = torch.compile(module, fullgraph=True, backend="eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, seq in ((2, 9), (3, 16), (4, 5)):
            x, mask = hidden(batch, seq, 6), make_mask("holes", batch, seq)
            torch.testing.assert_close(compiled(x, mask), module(x, mask))


@pytest.mark.slow
def test_compile_to_machine_code():
    """Inductor, once, on the mode with the most moving parts."""
    module = make_linformer("mean_pool", "headwise", max_length=LENGTH, window=2, global_tokens=1)
    x, mask = hidden(3, 13, 6).requires_grad_(), make_mask("holes", 3, 13)
    results = []
    for run in (module, torch.compile(module, fullgraph=True)):
        output = run(x, mask)
        results.append([output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])])
    torch.testing.assert_close(*results)


class WithWeights(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, hidden_states, attention_mask):
        return self.module(hidden_states, attention_mask, return_weights=True)


@every_module
@pytest.mark.parametrize("wrap", [lambda module: module, WithWeights], ids=["outputs", "weights"])
def test_export_with_dynamic_batch_and_length(make, wrap):
    """Traced at one shape, right at others: the longest, the shortest, a batch of one, and any mask."""
    module = wrap(make()).eval()
    batch, seq = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("seq", min=1, max=LENGTH)
    exported = torch.export.export(
        module,
        (hidden(2, 9, 6), make_mask("holes", 2, 9)),
        dynamic_shapes={"hidden_states": {0: batch, 1: seq}, "attention_mask": {0: batch, 1: seq}},
    ).module()
    for (rows, length), pattern in zip(((3, LENGTH), (1, LENGTH), (5, 2), (2, 1), (4, 9)), PATTERNS, strict=True):
        x = hidden(rows, length, 6, seed=3)
        mask = make_mask("right" if pattern == "none" else pattern, rows, length)
        torch.testing.assert_close(exported(x, mask), module(x, mask))


@every_module
def test_export_without_mask(make):
    module = make().eval()
    batch, seq = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("seq", min=1, max=LENGTH)
    exported = torch.export.export(module, (hidden(2, 9, 6),), dynamic_shapes={"hidden_states": {0: batch, 1: seq}})
    for rows, length in ((3, LENGTH), (1, 5), (2, 1)):
        x = hidden(rows, length, 6, seed=3)
        torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize("make", [*(lambda k=k: make_linformer(k) for k in KINDS), make_softmax, make_kfree])
def test_export_cross_attention(make):
    module = make().eval()
    dims = {name: torch.export.Dim(name, min=1, max=LENGTH) for name in ("batch", "seq", "source")}
    exported = torch.export.export(
        module,
        (hidden(2, 5, 6), make_mask("holes", 2, 9), hidden(2, 9, 6)),
        dynamic_shapes={
            "hidden_states": {0: dims["batch"], 1: dims["seq"]},
            "attention_mask": {0: dims["batch"], 1: dims["source"]},
            "context": {0: dims["batch"], 1: dims["source"]},
        },
    ).module()
    for rows, length, source in ((3, 4, LENGTH), (2, LENGTH, 3), (1, 1, 1)):
        inputs = hidden(rows, length, 6, seed=3), make_mask("empty_row", rows, source), hidden(rows, source, 6, seed=4)
        torch.testing.assert_close(exported(*inputs), module(*inputs))
