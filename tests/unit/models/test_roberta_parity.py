"""With softmax attention and RoBERTa's weights, ours computes what RoBERTa computes."""

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from linformers import LinformerModel


def copy_roberta(teacher: RobertaModel, student: LinformerModel) -> None:
    """Copy weight by weight; RoBERTa's positions start after two reserved rows, ours at row 0."""
    reserved = teacher.config.pad_token_id + 1
    pairs = [
        (teacher.embeddings.word_embeddings.weight, student.embeddings.word_embeddings.weight),
        (teacher.embeddings.position_embeddings.weight[reserved:], student.embeddings.position_embeddings.weight),
        (teacher.embeddings.token_type_embeddings.weight, student.embeddings.token_type_embeddings.weight),
    ]
    modules = [(teacher.embeddings.LayerNorm, student.embeddings.norm)]
    for theirs, ours in zip(teacher.encoder.layer, student.encoder.layers, strict=True):
        modules += [
            (theirs.attention.self.query, ours.attention.q_proj),
            (theirs.attention.self.key, ours.attention.k_proj),
            (theirs.attention.self.value, ours.attention.v_proj),
            (theirs.attention.output.dense, ours.attention.o_proj),
            (theirs.attention.output.LayerNorm, ours.attention_norm),
            (theirs.intermediate.dense, ours.intermediate),
            (theirs.output.dense, ours.output),
            (theirs.output.LayerNorm, ours.output_norm),
        ]
    for theirs, ours in modules:
        pairs += [(theirs.weight, ours.weight), (theirs.bias, ours.bias)]
    with torch.no_grad():
        for source, target in pairs:
            assert source.shape == target.shape
            target.copy_(source)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize(
    "changes", [{"attention_type": "softmax"}, {"projection_kind": "mean_pool", "projected_dim": 40}]
)
def test_hidden_states_agree(changes, padding_side, tiny_config, batch):
    torch.manual_seed(0)
    teacher = RobertaModel(
        RobertaConfig(
            vocab_size=120,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=42,
            type_vocab_size=2,
            layer_norm_eps=1e-5,
            pad_token_id=1,
        ),
        add_pooling_layer=False,
    ).eval()
    for parameter in teacher.parameters():  # biases and norms too, far from their trivial start
        torch.nn.init.normal_(parameter, std=0.3)
    student = LinformerModel(tiny_config(type_vocab_size=2, **changes)).eval()
    copy_roberta(teacher, student)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    types = torch.randint(0, 2, ids.shape)
    if padding_side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    expected = teacher(**inputs, output_hidden_states=True).hidden_states
    got = student(**inputs, output_hidden_states=True).hidden_states
    assert len(got) == len(expected) == 4
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=0, atol=1e-5)
