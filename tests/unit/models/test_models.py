"""The models as transformers' users know them: heads, masks, saving, precision, compilation."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

import linformers
from linformers.attention import LinformerAttention
from linformers.models.heads import LinformerClassificationHead

HEADS = {
    "LinformerForMaskedLM": lambda ids: {"labels": ids},
    "LinformerForSequenceClassification": lambda ids: {"labels": torch.tensor([0, 1, 0])},
    "LinformerForTokenClassification": lambda ids: {"labels": ids % 2},
    "LinformerForQuestionAnswering": lambda ids: {
        "start_positions": torch.tensor([0, 3, 0]),
        "end_positions": torch.tensor([1, 5, 0]),
    },
}

# Every mechanism, sharing mode and norm position at least once.
VARIANTS = {
    "default": {},
    "pre_norm": {"norm_position": "pre", "projection_sharing": "layerwise"},
    "per_head": {"projection_sharing": "none"},
    "headwise_window": {"projection_sharing": "headwise", "local_window": 3},
    "mean_pool_window": {"projection_kind": "mean_pool", "local_window": 3, "global_tokens": 2},
    "max_pool": {"projection_kind": "max_pool"},
    "conv": {"projection_kind": "conv", "projection_sharing": "none"},
    "kfree": {"attention_type": "kfree"},
    "softmax": {"attention_type": "softmax"},
    "no_attention": {"attention_type": "none"},
    "hybrid": {"attention_type": ["linformer", "kfree", "softmax"], "projected_dim": [8, None, None]},
}


def build(config, name="LinformerModel", seed=0):
    torch.manual_seed(seed)
    return getattr(linformers, name)(config)


@pytest.mark.parametrize("name", HEADS)
def test_heads_learn_and_reload_bit_equal(name, tiny_config, batch, tmp_path):
    model = build(tiny_config(local_window=2), name)
    targets = HEADS[name](batch["input_ids"])
    output = model(**batch, **targets)
    output.loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    first, second = model(**batch).to_tuple(), again(**batch).to_tuple()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_multiple_choice(tiny_config, batch):
    model = build(tiny_config(), "LinformerForMultipleChoice").eval()
    choices = {key: value.repeat(2, 1).unflatten(0, (3, 2)) for key, value in batch.items()}
    output = model(**choices, labels=torch.tensor([0, 1, 1]))
    assert output.logits.shape == (3, 2)
    ids, mask = choices["input_ids"], choices["attention_mask"]
    embedded = model.get_input_embeddings()(ids)
    positions = torch.arange(ids.shape[-1]).expand(ids.shape)
    other = model(inputs_embeds=embedded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(other.logits, output.logits)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 1])))


def test_multiple_choice_needs_choices(tiny_config, batch, bad_input):
    with pytest.raises(ValueError, match="batch, choices, seq"):
        build(tiny_config(), "LinformerForMultipleChoice")(**batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant, tiny_config, batch):
    model = build(tiny_config(**VARIANTS[variant]), "LinformerForMaskedLM")
    model(**batch, labels=batch["input_ids"]).loss.backward()
    zero = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Softmax is unmoved by what it adds to every key of a query: without slots of different mass k_proj.bias is idle.
    assert [n for n in zero if not n.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_never_reaches_real_tokens(variant, tiny_config, batch):
    model = build(tiny_config(**VARIANTS[variant])).double().eval()
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    alone = [model(ids[i : i + 1, : mask[i].sum()]).last_hidden_state[0] for i in range(3)]
    garbage = torch.randint(5, 120, ids.shape).where(~mask, ids)
    layouts = {"right": (garbage, mask), "left": (garbage.flip(1), mask.flip(1))}
    holes = torch.zeros(3, 40, dtype=torch.bool)
    spread = torch.full((3, 40), 7)
    for i in range(3):
        where = torch.randperm(40)[: mask[i].sum()].sort().values
        holes[i, where], spread[i, where] = True, ids[i, mask[i]]
    layouts["holes"] = (spread, holes)
    for name, (layout_ids, layout_mask) in layouts.items():
        output = model(layout_ids, attention_mask=layout_mask, output_hidden_states=True, output_attentions=True)
        expected = alone if name != "left" else [x.flip(0) for x in alone]
        for i in range(3):
            real = output.last_hidden_state[i, layout_mask[i]]
            if name == "left":  # the sequences themselves are reversed there
                expected[i] = model(ids[i : i + 1, mask[i]].flip(1)).last_hidden_state[0]
            torch.testing.assert_close(real, expected[i], rtol=0, atol=1e-10)
        assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_an_all_padding_row_is_finite(tiny_config, batch):
    model = build(tiny_config(local_window=2), "LinformerForMaskedLM")
    mask = batch["attention_mask"].clone()
    mask[1] = 0
    output = model(batch["input_ids"], attention_mask=mask, labels=batch["input_ids"], return_logits=True)
    output.loss.backward()
    assert output.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_masked_lm_computes_only_labelled_logits_if_asked(tiny_config, batch):
    model = build(tiny_config(), "LinformerForMaskedLM")
    labels = batch["input_ids"].masked_fill(torch.rand(3, 37) > 0.2, -100)
    sparse = model(**batch, labels=labels, return_logits=False)
    assert sparse.logits is None
    dense = model(**batch, labels=labels)
    assert dense.logits.shape == (3, 37, 120)
    torch.testing.assert_close(sparse.loss, dense.loss)
    direct = torch.nn.functional.cross_entropy(dense.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(dense.loss, direct)
    assert model.train()(**batch, labels=torch.full_like(labels, -100)).loss == 0


def test_outputs_of_every_layer(tiny_config, batch):
    config = tiny_config(local_window=2, attention_type=["linformer", "softmax", "none"], projected_dim=8)
    model = build(config).eval()
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    assert [tuple(w.shape) for w in output.attentions] == [(3, 4, 37, 8 + 5), (3, 4, 37, 37)]
    assert len(output.hidden_states) == 4
    real = batch["attention_mask"].bool()
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1).transpose(1, 2)[real], torch.ones(58, 4))
    assert len(model(**batch, return_dict=False)) == 1


def test_eager_equals_sdpa(tiny_config, batch):
    model = build(tiny_config(local_window=2)).eval()
    fused = model(**batch).last_hidden_state
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**batch).last_hidden_state, fused, rtol=0, atol=1e-5)
    with pytest.raises((ValueError, ImportError)):
        model.set_attn_implementation("flash_attention_2")


def test_activation_checkpointing_changes_nothing(tiny_config, batch):
    model = build(tiny_config(local_window=2), "LinformerForMaskedLM")
    model(**batch, labels=batch["input_ids"]).loss.backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=0, atol=1e-7)


def test_vocabulary_resizes_with_the_head(tiny_config, batch):
    model = build(tiny_config(), "LinformerForMaskedLM").eval()
    before = model(**batch).logits
    model.resize_token_embeddings(130, mean_resizing=False)
    assert model.config.vocab_size == 130
    after = model(**batch).logits
    assert after.shape[-1] == 130
    torch.testing.assert_close(after[..., :120], before)
    assert model.lm_head.decoder.weight is model.linformer.embeddings.word_embeddings.weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1)])
def test_other_precisions(dtype, tolerance, tiny_config, batch):
    model = build(tiny_config(local_window=2)).eval()
    expected = model(**batch).last_hidden_state
    output = model.to(dtype)(**batch).last_hidden_state
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=tolerance)


def test_starting_weights_of_the_built_model():
    config = linformers.LinformerConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        projected_dim=64,
    )
    model = build(config)
    attention = model.encoder.layers[0].attention
    assert isinstance(attention, LinformerAttention)
    assert attention.key_projection.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
    words, positions = model.embeddings.word_embeddings.weight, model.embeddings.position_embeddings.weight
    assert words.std().item() == pytest.approx(0.02, rel=0.05)
    assert positions.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.01)
    assert (positions[0, 1::2] > 0).all() and not positions[0, ::2].any()  # sinusoids, not noise
    assert not words[config.pad_token_id].any()


def test_what_was_loaded_is_not_initialised_again():
    """Versions of transformers differ in whether they ask for it; the row of padding once became zero."""
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = linformers.LinformerModel(linformers.LinformerConfig(**sizes, intermediate_size=8, projected_dim=4))
    table = model.embeddings.word_embeddings
    with torch.no_grad():
        table.weight.fill_(1.0)
    table.weight._is_hf_initialized = True
    model._init_weights(table)
    assert table.padding_idx is not None and (table.weight == 1).all()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classifier_pools_real_tokens_only(pooling, tiny_config):
    head = LinformerClassificationHead(tiny_config(classifier_pooling=pooling), 2)
    x = torch.randn(2, 5, 32)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = torch.stack(
        [x[0, 1] if pooling == "cls" else x[0, 1:3].mean(0), x[1, 0] if pooling == "cls" else x[1].mean(0)]
    )
    torch.testing.assert_close(head.pool(x, mask), expected)
    torch.testing.assert_close(head.pool(x[1:], None), expected[1:])


def test_auto_classes(tiny_config, tmp_path):
    model = AutoModelForMaskedLM.from_config(tiny_config())
    assert type(model) is linformers.LinformerForMaskedLM
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is linformers.LinformerConfig
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is linformers.LinformerModel
    assert torch.equal(base.embeddings.word_embeddings.weight, model.linformer.embeddings.word_embeddings.weight)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"input_ids": torch.ones(2, 41, dtype=torch.long)}, ValueError, ["41", "max_position_embeddings=40"]),
        ({"input_ids": torch.ones(7, dtype=torch.long)}, ValueError, ["(batch, seq)", "(7,)"]),
        ({}, ValueError, ["input_ids", "inputs_embeds"]),
        (
            {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": torch.zeros(2, 4)},
            TypeError,
            ["attention_mask", "float"],
        ),
        (
            {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": torch.ones(2, 5).long()},
            ValueError,
            ["attention_mask", "(2, 4)", "(2, 5)"],
        ),
        ({"input_ids": torch.ones(2, 4, dtype=torch.long), "attn_mask": None}, TypeError, ["attn_mask"]),
    ],
)
def test_bad_inputs_are_named(arguments, error, words, tiny_config, bad_input):
    with pytest.raises(error) as caught:
        build(tiny_config())(**arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.compile
@pytest.mark.parametrize("variant", ["default", "headwise_window", "mean_pool_window", "conv", "hybrid"])
def test_export_with_dynamic_batch_and_length(variant, tiny_config):
    model = build(tiny_config(**VARIANTS[variant])).eval()
    example = (torch.randint(5, 120, (2, 21)), torch.ones(2, 21, dtype=torch.long))
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq", max=40)
    program = torch.export.export(model, example, dynamic_shapes=({0: batch, 1: seq},) * 2, strict=False).module()
    for size, length in [(1, 1), (3, 40), (2, 17), (1, 33)]:
        ids, mask = torch.randint(5, 120, (size, length)), torch.ones(size, length, dtype=torch.long)
        mask[0, length // 2 + 1 :] = 0
        real = mask.bool()
        expected = model(ids, attention_mask=mask).last_hidden_state[real]
        torch.testing.assert_close(program(ids, mask).last_hidden_state[real], expected, rtol=0, atol=1e-5)


@pytest.mark.compile
@pytest.mark.parametrize("variant", ["default", "mean_pool_window"])
def test_fullgraph_compile(variant, tiny_config, batch):
    model = build(tiny_config(**VARIANTS[variant]), "LinformerForMaskedLM")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = compiled(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    expected = model(**batch, labels=batch["input_ids"]).loss
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mean_pool", "cluster"])
def test_outputs_at_padding_are_zero_in_every_mode(kind, tiny_config):
    """However documents are grouped, in training and in inference; so a batch and its rows agree everywhere."""
    model = build(tiny_config(projection_kind=kind)).eval()
    ids, mask = torch.randint(5, 100, (3, 37)), torch.ones(3, 37, dtype=torch.long)
    mask[0, 20:] = 0
    mask[1, :9] = 0
    trained = model(ids, mask, output_hidden_states=True).hidden_states
    with torch.no_grad():
        read = model(ids, mask, output_hidden_states=True).hidden_states
        plain = model(ids, mask).last_hidden_state
        rows = torch.cat([model(ids[i : i + 1], mask[i : i + 1]).last_hidden_state for i in range(3)])
    for a, b in zip(trained, read, strict=True):
        torch.testing.assert_close(a, b)
        assert not b[mask == 0].any()
    torch.testing.assert_close(plain, read[-1])
    torch.testing.assert_close(rows, plain)


def test_gradients_reach_the_hidden_states_that_are_returned(tiny_config):
    model = build(tiny_config())
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, 3:5] = 0
    states = model(torch.randint(5, 100, (2, 12)), mask, output_hidden_states=True).hidden_states
    for x in states[:-1]:
        x.retain_grad()
    states[-1].square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in states[:-1])
    outputs = model(torch.randint(5, 100, (2, 12)), output_attentions=True)
    for weights in outputs.attentions:  # of texts without padding; else they are a copy in the caller's order
        weights.retain_grad()
    outputs.last_hidden_state.square().sum().backward()
    assert all(weights.grad.abs().sum() > 0 for weights in outputs.attentions)
