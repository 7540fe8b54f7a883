"""Convert the Linformer-RoBERTa of fairseq (examples/linformer), by the names of its state dict."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from linformers.attention import LinformerAttention
from linformers.convert.load import name_of, reading
from linformers.models.config import LinformerConfig
from linformers.models.heads import LinformerForSequenceClassification
from linformers.models.text import LinformerForMaskedLM, LinformerModel, LinformerPreTrainedModel

_RESERVED = 2  # rows of the position table that no token uses: up to and with the padding id, 1
_LAYER = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "intermediate": "fc1",
    "output": "fc2",
    "output_norm": "final_layer_norm",
}


@torch.no_grad()
def convert_fairseq_linformer(
    weights: Mapping[str, Tensor] | str | Path,
    *,
    num_attention_heads: int | None = None,
    classification_head: str | None = None,
) -> LinformerPreTrainedModel:
    """Build ours from a state dict of fairseq's ``linformer_roberta``.

    It compresses the inputs and adds the biases of keys and values afterwards. A key bias moves all scores of a query
    alike and is dropped; a value bias reaches the output whole and is added to the output's. So ours computes the same
    for sequences without padding; with padding, fairseq's outputs depend on it and ours do not.

    Args:
        weights: the state dict, or a safetensors file of it. Names start with ``encoder.sentence_encoder.`` (or
            ``decoder.``, as older versions had it); E is in ``compress_k``, ``compress_v`` or ``compress_layer``.
        num_attention_heads: heads; None = one for 64 features, as in RoBERTa.
        classification_head: name of a sequence classifier in it; None = the masked-LM head, or no head if there is
            none.

    Returns:
        A new model, in evaluation mode.

    Raises:
        ValueError: no safetensors file, a weight that is missing, unknown or of the wrong shape, or no such head.
        OSError: no such file.
    """
    if isinstance(weights, str | Path):
        source, state = name_of(weights), _load(Path(weights))
    else:
        source, state = "fairseq Linformer", dict(weights)
    state = {re.sub(r"^(encoder|decoder)\.", "", name): value for name, value in state.items()}
    state = {name.replace(".layernorm_embedding.", ".emb_layer_norm."): value for name, value in state.items()}
    count = len({name.split(".")[2] for name in state if name.startswith("sentence_encoder.layers.")})
    words = _get(state, "sentence_encoder.embed_tokens.weight")
    projections = [_projections_of(state, layer) for layer in range(count)]
    if not projections:
        raise ValueError("the state dict has no sentence_encoder.layers.0.*: is it of fairseq's linformer_roberta?")
    k, n = projections[0][0].shape
    head = f"classification_heads.{classification_head}."
    if classification_head is not None and f"{head}dense.weight" not in state:
        names = sorted({name.split(".")[1] for name in state if name.startswith("classification_heads.")})
        raise ValueError(
            f"classification_head={classification_head!r} is not there; choose one of its heads: "
            f"{', '.join(names) or 'none'}."
        )
    vocabulary = state.get("lm_head.weight", words)
    config = LinformerConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=count,
        num_attention_heads=num_attention_heads or max(words.shape[1] // 64, 1),
        intermediate_size=_get(state, "sentence_encoder.layers.0.fc1.weight").shape[0],
        max_position_embeddings=n,
        projected_dim=k,
        projection_sharing=_sharing(projections),
        tie_word_embeddings=torch.equal(vocabulary, words),
        converted_from=source,
    )
    names = {"embeddings.word_embeddings": "sentence_encoder.embed_tokens"}
    names |= {"embeddings.norm": "sentence_encoder.emb_layer_norm"}
    for i in range(count):
        names |= {f"encoder.layers.{i}.{a}": f"sentence_encoder.layers.{i}.{b}" for a, b in _LAYER.items()}
    tops: dict[str, str] = {}
    if classification_head is not None:
        config.num_labels = _get(state, f"{head}out_proj.weight").shape[0]
        model: LinformerPreTrainedModel = LinformerForSequenceClassification(config)
        tops = {"classifier.dense": f"{head}dense", "classifier.out_proj": f"{head}out_proj"}
    elif "lm_head.weight" in state:
        model = LinformerForMaskedLM(config)
        tops = {"lm_head.dense": "lm_head.dense", "lm_head.norm": "lm_head.layer_norm", "lm_head.decoder": "lm_head"}
    else:
        model = LinformerModel(config)

    base, used = model.base_model, set()
    assert isinstance(base, LinformerModel)
    for root, modules in ((base, names), (model, tops)):
        for ours, theirs in modules.items():
            for name, parameter in root.get_submodule(ours).named_parameters():
                _fill(parameter, _get(state, f"{theirs}.{name}"), f"{theirs}.{name}")
                used.add(f"{theirs}.{name}")
    positions = _get(state, "sentence_encoder.embed_positions.weight")[_RESERVED:]
    _fill(base.embeddings.position_embeddings.weight, positions[:n], "sentence_encoder.embed_positions.weight")
    base.embeddings.token_type_embeddings.weight.zero_()
    for layer, (e, f) in zip(base.encoder.layers, projections, strict=True):
        attention = layer.attention
        assert isinstance(attention, LinformerAttention)
        for projection, weight in ((attention.key_projection, e), (attention.value_projection, f)):
            _fill(projection.get_parameter("weight"), weight.T, "compress_k or compress_v")
        attention.o_proj.bias.add_(attention.o_proj.weight @ attention.v_proj.bias)
        nn.init.zeros_(attention.k_proj.bias)
        nn.init.zeros_(attention.v_proj.bias)
    _check_rest(set(state) - used - {"sentence_encoder.embed_positions.weight"})
    return model.eval()


def _load(path: Path) -> dict[str, Tensor]:
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no safetensors file, and reading other formats can run code. Where you trust it: "
            "safetensors.torch.save_file({k: v.clone() for k, v in torch.load(FILE, weights_only=False)['model']"
            ".items()}, 'linformer.safetensors')"
        )
    if not path.is_file():
        raise OSError(f"weights={path}: no such file; give a safetensors file of the state dict")
    with reading(path):
        return load_file(path)


def _get(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"{name} is missing in the state dict: is it of fairseq's linformer_roberta?")
    return state[name]


def _projections_of(state: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """E and F of a layer, (k, n); the same object where they are shared."""
    shared = state.get("sentence_encoder.compress_layer.weight")
    prefix = f"sentence_encoder.layers.{layer}.self_attn."
    e = shared if shared is not None else _get(state, f"{prefix}compress_k.weight")
    return e, e if shared is not None else state.get(f"{prefix}compress_v.weight", e)


def _sharing(projections: list[tuple[Tensor, Tensor]]) -> str:
    if any(f is not e and not torch.equal(e, f) for e, f in projections):
        return "headwise"
    first = projections[0][0]
    same = all(e is first or torch.equal(e, first) for e, _ in projections)
    return "layerwise" if same and len(projections) > 1 else "key_value"


def _fill(parameter: Tensor, value: Tensor, name: str) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, where {tuple(parameter.shape)} is expected.")
    parameter.copy_(value)


def _check_rest(names: set[str]) -> None:
    """Refuse weights that mean something else than what was built."""
    known = r"(.*\.)?version|(lm_head|classification_heads)\..*|.*compress_(k|v|layer)\.(weight|bias)"
    unknown = sorted(name for name in names if not re.fullmatch(known, name))
    if unknown:
        more = ", ..." if unknown[3:] else ""
        raise ValueError(
            f"the state dict holds weights that a Linformer-RoBERTa has not: {', '.join(unknown[:3])}{more}. Only the "
            "post-norm encoder of fairseq's examples/linformer can be converted."
        )
