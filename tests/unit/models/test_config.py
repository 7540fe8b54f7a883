import json

import pytest

from linformers import LinformerConfig


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"projected_dims": 8}, ["projected_dims", "projected_dim'"]),
        ({"max_length": 8}, ["max_length=8", "no field"]),
        ({"atention_type": "softmax"}, ["atention_type", "attention_type"]),
        ({"init_fn": "x"}, ["init_fn"]),
        ({"temperature": 0.5}, ["temperature"]),
        ({"projection_kind": "meanpool"}, ["projection_kind='meanpool'", "mean_pool"]),
        ({"projection_sharing": "head_wise"}, ["head_wise", "headwise"]),
        ({"attention_type": "sofmax"}, ["sofmax", "'softmax'"]),
        ({"attention_type": ["softmax"]}, ["1 entries", "3 layers"]),
        ({"projected_dim": [8, 8]}, ["projected_dim", "2 entries", "3 layers"]),
        ({"projected_dim": [8, 8, 4], "projection_sharing": "layerwise"}, ["layerwise", "[8, 8, 4]"]),
        ({"projected_dim": 0}, ["projected_dim", "at least 1", "0"]),
        ({"num_attention_heads": 5}, ["num_attention_heads=5", "hidden_size=32", "use 4"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob", "1.5"]),
        ({"local_window": -1}, ["local_window", "-1"]),
        ({"global_tokens": 1, "attention_type": "kfree"}, ["global_tokens=1", "Set it to 0"]),
        ({"classifier_activation": "tanhh"}, ["classifier_activation", "tanh"]),
        ({"local_window": 4, "attention_type": "softmax"}, ["local_window=4", "Set it to 0"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings"]),
    ],
)
def test_bad_fields_are_named(tiny_config, changes, words):
    with pytest.raises(ValueError) as error:
        tiny_config(**changes)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("changes", [{"hidden_size": "32"}, {"norm_position": "mid"}, {"local_window": 1.5}])
def test_wrong_types_are_named(tiny_config, changes):
    with pytest.raises(Exception, match=next(iter(changes))):
        tiny_config(**changes)


def test_round_trip(tiny_config, tmp_path):
    config = tiny_config(attention_type=["linformer", "kfree", "softmax"], projected_dim=[8, None, 4], num_labels=3)
    config.save_pretrained(tmp_path)
    again = LinformerConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.layer_attention == [("linformer", 8), ("kfree", None), ("softmax", None)]


def test_unknown_keys_of_a_saved_file_are_kept_and_named(tiny_config, tmp_path, caplog):
    config = tiny_config()
    config.my_note = "checked by hand"
    config.auto_map = {"AutoModel": "elsewhere--Model"}
    config.save_pretrained(tmp_path)
    again = LinformerConfig.from_pretrained(tmp_path)
    assert again.my_note == "checked by hand" and again.auto_map == config.auto_map
    assert again.to_dict() == config.to_dict()
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "projection_kinds": "conv"}))
    caplog.clear()
    assert LinformerConfig.from_pretrained(tmp_path).projection_kind == "linear"
    said = caplog.text
    assert "my_note, projection_kinds is kept" in said and "auto_map" not in said
    path.write_text(json.dumps({**saved, "projection_kind": "convs"}))
    with pytest.raises(ValueError, match="projection_kind='convs'"):
        LinformerConfig.from_pretrained(tmp_path)


def test_a_linformer_layer_without_k_is_softmax(tiny_config):
    config = tiny_config(projected_dim=[8, None, 8])
    assert [layer_type for layer_type, _ in config.layer_attention] == ["linformer", "softmax", "linformer"]
