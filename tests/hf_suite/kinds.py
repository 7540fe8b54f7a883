"""Testers for transformers' own test mixins, as a contributor would write them: one for each kind of model.

Run by tests/integration/test_transformers_suite.py, in a folder with the tests of transformers' source distribution.
"""

import unittest
from typing import Any

import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, random_attention_mask

import linformers

BATCH = 13


class Tester:
    """What the mixins ask of a model: a small configuration, a batch, and the shapes of what it gives."""

    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    num_labels = type_sequence_label_size = 2
    num_choices = 4
    is_training = True
    batch_size = BATCH

    def __init__(self, inputs: dict[str, Any], fields: dict[str, Any], seq_length: int, key_length: int) -> None:
        self.inputs, self.fields = inputs, fields
        self.seq_length, self.key_length = seq_length, key_length
        vars(self).update(fields)

    def get_config(self) -> linformers.LinformerConfig:
        sizes = {name: getattr(self, name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")}
        return linformers.LinformerConfig(**sizes, intermediate_size=37, **self.fields)

    def prepare_config_and_inputs_for_common(self) -> tuple[linformers.LinformerConfig, dict[str, Any]]:
        return self.get_config(), dict(self.inputs)


class Suite(ModelTesterMixin):
    test_can_init_all_missing_weights_before_2023 = True
    has_text_modality = False
    test_resize_embeddings = False
    pipeline_model_mapping: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    seq_length = key_length = 0

    def inputs(self) -> dict[str, Any]:
        raise NotImplementedError

    def setUp(self) -> None:
        self.model_tester = Tester(self.inputs(), self.fields, self.seq_length, self.key_length)
        self.config_tester = ConfigTester(
            self, config_class=linformers.LinformerConfig, has_text_modality=self.has_text_modality, hidden_size=48
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class TextSuite(Suite):
    all_model_classes = (
        linformers.LinformerForMaskedLM,
        linformers.LinformerModel,
        linformers.LinformerForSequenceClassification,
        linformers.LinformerForTokenClassification,
        linformers.LinformerForMultipleChoice,
        linformers.LinformerForQuestionAnswering,
    )
    has_text_modality = test_resize_embeddings = True
    seq_length = 7
    words = {"vocab_size": 99, "max_position_embeddings": 512, "type_vocab_size": 16}

    def inputs(self) -> dict[str, Any]:
        shape = [BATCH, self.seq_length]
        return {
            "input_ids": ids_tensor(shape, 99),
            "token_type_ids": ids_tensor(shape, 16),
            "attention_mask": random_attention_mask(shape),
        }


class PatchSuite(Suite):
    @unittest.skip(reason="images and recordings have no embeddings of words")
    def test_inputs_embeds(self) -> None:
        pass

    @unittest.skip(reason="images and recordings have no embeddings of words")
    def test_model_get_set_embeddings(self) -> None:
        pass


class LinearWindowTest(TextSuite, unittest.TestCase):
    fields = TextSuite.words | {"projected_dim": 4, "local_window": 2, "global_tokens": 1}
    key_length = 4 + 5 + 1


class ClusterTest(TextSuite, unittest.TestCase):
    fields = TextSuite.words | {"projected_dim": 4, "projection_kind": "cluster", "global_tokens": 1}
    key_length = 4 + 1


class ImageTest(PatchSuite, unittest.TestCase):
    all_model_classes = (linformers.LinformerImageModel, linformers.LinformerForImageClassification)
    fields = {"image_size": 32, "patch_size": 8, "num_channels": 3, "projected_dim": 4, "projection_kind": "mean_pool"}
    fields |= {"local_window": 2, "global_tokens": 1}
    seq_length, key_length = 1 + 16, 4 + 5 + 1

    def inputs(self) -> dict[str, Any]:
        return {"pixel_values": floats_tensor([BATCH, 3, 32, 32])}


class AudioTest(PatchSuite, unittest.TestCase):
    all_model_classes = (linformers.LinformerAudioModel, linformers.LinformerForAudioClassification)
    fields = {"audio_length": 24, "num_mel_bins": 16, "patch_size": (8, 4), "projected_dim": 4}
    seq_length, key_length = 1 + 2 * 6, 4

    def inputs(self) -> dict[str, Any]:
        mask = torch.ones(BATCH, 24, dtype=torch.long)
        mask[1, 12:] = 0
        return {"input_values": floats_tensor([BATCH, 24, 16]), "attention_mask": mask}
