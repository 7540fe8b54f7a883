"""State dicts of fairseq's Linformer-RoBERTa, against its equations written out here."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from linformers import LinformerForSequenceClassification
from linformers.cli import main
from linformers.convert.fairseq import convert_fairseq_linformer

VOCAB, HIDDEN, LAYERS, HEADS, INNER, N, K = 40, 16, 2, 2, 24, 12, 4


def state_dict(sharing: str = "none", norm: str = "layernorm_embedding") -> dict[str, torch.Tensor]:
    """Random weights under fairseq's names."""
    state: dict[str, torch.Tensor] = {"encoder.version": torch.tensor(2)}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = torch.randn(*shape) * 0.3
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0]) * 0.3

    encoder = "encoder.sentence_encoder"
    add(f"{encoder}.embed_tokens", VOCAB, HIDDEN, bias=False)
    add(f"{encoder}.embed_positions", N + 2, HIDDEN, bias=False)
    add(f"{encoder}.{norm}", HIDDEN)
    if sharing == "layer":
        add(f"{encoder}.compress_layer", K, N)
    for i in range(LAYERS):
        layer = f"{encoder}.layers.{i}"
        for name in ("q", "k", "v", "out"):
            add(f"{layer}.self_attn.{name}_proj", HIDDEN, HIDDEN)
        if sharing == "layer":
            for part in ("weight", "bias"):
                state[f"{layer}.self_attn.compress_k.{part}"] = state[f"{encoder}.compress_layer.{part}"]
        else:
            add(f"{layer}.self_attn.compress_k", K, N, bias=False)
        if sharing == "none":
            add(f"{layer}.self_attn.compress_v", K, N, bias=False)
        for name, shape in (("fc1", (INNER, HIDDEN)), ("fc2", (HIDDEN, INNER))):
            add(f"{layer}.{name}", *shape)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            add(f"{layer}.{name}", HIDDEN)
    add("encoder.lm_head.dense", HIDDEN, HIDDEN)
    add("encoder.lm_head.layer_norm", HIDDEN)
    state["encoder.lm_head.weight"] = state[f"{encoder}.embed_tokens.weight"]
    state["encoder.lm_head.bias"] = torch.randn(VOCAB)
    add("classification_heads.sst2.dense", HIDDEN, HIDDEN)
    add("classification_heads.sst2.out_proj", 3, HIDDEN)
    return state


def fairseq_forward(state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Last hidden states of unpadded sequences."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (HIDDEN,), state[f"{name}.weight"], state[f"{name}.bias"])

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    encoder, n = "encoder.sentence_encoder", ids.shape[1]
    x = state[f"{encoder}.embed_tokens.weight"][ids] + state[f"{encoder}.embed_positions.weight"][2 : 2 + n]
    embedding_norm = "layernorm_embedding" if f"{encoder}.layernorm_embedding.weight" in state else "emb_layer_norm"
    x = norm(f"{encoder}.{embedding_norm}", x)
    for i in range(LAYERS):
        layer, attention = f"{encoder}.layers.{i}", f"{encoder}.layers.{i}.self_attn"
        e = state[f"{attention}.compress_k.weight"]
        f = state.get(f"{attention}.compress_v.weight", e)
        query = split(linear(f"{attention}.q_proj", x)) / math.sqrt(HIDDEN // HEADS)
        key, value = (split(linear(f"{attention}.{name}_proj", m[:, :n] @ x)) for name, m in (("k", e), ("v", f)))
        read = ((query @ key.transpose(-1, -2)).softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = norm(f"{layer}.self_attn_layer_norm", x + linear(f"{attention}.out_proj", read))
        x = norm(f"{layer}.final_layer_norm", x + linear(f"{layer}.fc2", F.gelu(linear(f"{layer}.fc1", x))))
    return x


@pytest.mark.parametrize("length", [N, 7])
@pytest.mark.parametrize(("sharing", "ours"), [("none", "headwise"), ("kv", "key_value"), ("layer", "layerwise")])
def test_computes_the_same(sharing: str, ours: str, length: int) -> None:
    state = state_dict(sharing)
    model = convert_fairseq_linformer(state, num_attention_heads=HEADS)
    assert model.config.projection_sharing == ours and model.config.projected_dim == K
    ids = torch.randint(4, VOCAB, (3, length))
    expected = fairseq_forward(state, ids)
    output = model(ids, output_hidden_states=True)
    torch.testing.assert_close(output.hidden_states[-1], expected, rtol=1e-5, atol=1e-5)
    x = F.gelu(F.linear(expected, state["encoder.lm_head.dense.weight"], state["encoder.lm_head.dense.bias"]))
    x = F.layer_norm(x, (HIDDEN,), state["encoder.lm_head.layer_norm.weight"], state["encoder.lm_head.layer_norm.bias"])
    logits = F.linear(x, state["encoder.lm_head.weight"], state["encoder.lm_head.bias"])
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)


def test_file_of_an_older_version_with_a_classifier(tmp_path: Path) -> None:
    state = state_dict("kv", norm="emb_layer_norm")
    ids = torch.randint(4, VOCAB, (2, 9))
    first = fairseq_forward(state, ids)[:, 0]
    dense = F.linear(
        first, state["classification_heads.sst2.dense.weight"], state["classification_heads.sst2.dense.bias"]
    )
    expected = F.linear(
        dense.tanh(),
        state["classification_heads.sst2.out_proj.weight"],
        state["classification_heads.sst2.out_proj.bias"],
    )
    old = {name.replace("encoder.", "decoder.", 1): value.clone() for name, value in state.items()}
    save_file(old, tmp_path / "linformer.safetensors")
    model = convert_fairseq_linformer(
        tmp_path / "linformer.safetensors", num_attention_heads=HEADS, classification_head="sst2"
    )
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert model.config.converted_from == "linformer.safetensors" and model.config.num_labels == 3
    command = ["convert", "--model", str(tmp_path / "linformer.safetensors"), "--output", str(tmp_path / "out")]
    assert main.run([*command, "--num-attention-heads", str(HEADS), "--classification-head", "sst2"]) == 0
    saved = LinformerForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(saved(ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_without_a_head_and_untied() -> None:
    state = {name: value for name, value in state_dict().items() if "lm_head" not in name}
    assert type(convert_fairseq_linformer(state, num_attention_heads=HEADS)).__name__ == "LinformerModel"
    state = state_dict() | {"encoder.lm_head.weight": torch.randn(VOCAB, HIDDEN)}
    model = convert_fairseq_linformer(state, num_attention_heads=HEADS)
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.get_output_embeddings().weight, state["encoder.lm_head.weight"])


def test_wrong_state_dicts(tmp_path: Path) -> None:
    state = state_dict()
    layer = "encoder.sentence_encoder.layers.0"
    lacking = {name: value for name, value in state.items() if name != f"{layer}.fc2.bias"}
    for wrong, said in (
        ({}, "embed_tokens.weight is missing"),
        (lacking, "layers.0.fc2.bias is missing"),
        (state | {"encoder.sentence_encoder.layer_norm.weight": torch.ones(HIDDEN)}, "post-norm"),
        (state | {f"{layer}.fc1.bias": torch.ones(3)}, r"fc1.bias has shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            convert_fairseq_linformer(wrong, num_attention_heads=HEADS)
    with pytest.raises(ValueError, match="heads: sst2"):
        convert_fairseq_linformer(state, num_attention_heads=HEADS, classification_head="sst")
    (tmp_path / "checkpoint_best.pt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="save_file"):
        convert_fairseq_linformer(tmp_path / "checkpoint_best.pt")
    with pytest.raises(OSError):
        convert_fairseq_linformer(tmp_path / "nothing.safetensors")
