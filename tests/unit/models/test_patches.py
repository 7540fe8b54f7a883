"""Models of images and audio."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from linformers import LinformerConfig, LinformerForAudioClassification, LinformerForImageClassification

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "projected_dim": 6,  # below the tokens, so that the low-rank branch is reached
    "norm_position": "pre",
    "num_labels": 3,
}
KINDS = ("linformer", "kfree", "softmax")
AUDIO = {
    "frames": {"num_mel_bins": 8, "audio_length": 40, "patch_size": (8, 2)},
    "patches": {"num_mel_bins": 8, "audio_length": 40, "patch_size": 4},
    "overlapping": {"num_mel_bins": 8, "audio_length": 41, "patch_size": 4, "patch_stride": 3},
    "waveform": {"audio_length": 100, "patch_size": 5},
}


def image_model(kind="linformer", **changes):
    torch.manual_seed(0)
    config = {"image_size": (8, 12), "patch_size": 2, "num_channels": 1, "attention_type": kind, **SIZE, **changes}
    return LinformerForImageClassification(LinformerConfig(**config)).eval()


def audio_model(kind="linformer", inputs="frames", **changes):
    torch.manual_seed(0)
    config = {**AUDIO[inputs], "attention_type": kind, "num_prefix_tokens": 2, **SIZE, **changes}
    return LinformerForAudioClassification(LinformerConfig(**config)).eval()


def recordings(inputs, count=2, length=40):
    generator = torch.Generator().manual_seed(1)
    shape = (count, length) if inputs == "waveform" else (count, length, 8)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_parameter_of_an_image_model_learns(kind, pooling):
    model = image_model(kind, classifier_pooling=pooling).train()
    model(torch.randn(4, 1, 8, 12), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_patches_are_read_row_by_row():
    model = image_model("softmax")
    embeddings = model.linformer.embeddings
    pixels = torch.randn(1, 1, 8, 12)
    found = embeddings(pixels, embeddings.position_embeddings.weight)
    projection, positions = embeddings.projection, embeddings.position_embeddings.weight
    for row, column in ((0, 0), (1, 4), (3, 5)):
        patch = pixels[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        token = 1 + 6 * row + column
        expected = (projection.weight * patch).sum((1, 2, 3)) + projection.bias + positions[token]
        torch.testing.assert_close(found[0, token], expected)


def test_positions_of_another_grid_keep_a_plane():
    table = image_model().linformer.embeddings.position_embeddings
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    with torch.no_grad():
        table.weight[1:] = (rows + 10 * columns).reshape(-1, 1).expand(-1, 32)
    found = table.interpolated((8, 12))
    assert found.shape == (97, 32)
    torch.testing.assert_close(found[0], table.weight[0])
    inner = found[1:, 0].view(8, 12)[3:5, 4:8]  # away from the border the field is linear
    # Two steps are one of the old grid; single ones are uneven, in ViT's bicubic interpolation too.
    torch.testing.assert_close(inner[:, 2:] - inner[:, :-2], torch.full((2, 2), 10.0))
    torch.testing.assert_close(inner.diff(dim=0), torch.full((1, 4), 0.5), atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", ["kfree", "softmax"])
def test_other_sizes_need_no_change(kind):
    model, pixels = image_model(kind), torch.randn(2, 1, 16, 10)
    assert model(pixels).logits.shape == (2, 3)
    assert torch.equal(model(pixels, interpolate_pos_encoding=True).logits, model(pixels).logits)
    with pytest.raises(ValueError, match=r"\(16, 10\) pixels are not of image_size"):
        model(pixels, interpolate_pos_encoding=False)


def test_linformer_takes_larger_images_after_resizing(tmp_path):
    model = image_model()
    pixels = torch.randn(2, 1, 16, 12)
    with pytest.raises(ValueError, match=r"49 tokens exceed the 25 .* resize_image_size\(\(16, 12\)\)"):
        model(pixels)
    with pytest.raises(ValueError, match="no multiple of patch_size"):
        model.resize_image_size((16, 11))
    model.resize_image_size((16, 12))
    assert model.config.max_position_embeddings == 49
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(model(pixels).logits, reloaded(pixels).logits)


def test_pixels_as_a_sequence():
    model = image_model(patch_size=1)
    assert model.config.max_position_embeddings == 8 * 12 + 1
    assert model(torch.randn(2, 1, 8, 12)).logits.shape == (2, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", list(AUDIO))
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_recording_does_not_see_padding_or_its_batch(kind, inputs, pooling):
    model = audio_model(kind, inputs, classifier_pooling=pooling)
    values = recordings(inputs)
    mask = torch.arange(40) < torch.tensor([[40], [23]])
    alone = model(values[1:, :23]).logits[0]
    torch.testing.assert_close(model(values, mask).logits[1], alone, atol=1e-6, rtol=1e-5)
    values[1, 23:] = torch.nan
    torch.testing.assert_close(model(values, mask.long()).logits[1], alone, atol=1e-6, rtol=1e-5)
    # padding on the left
    left = torch.cat([values[1:, 23:], values[1:, :23]], dim=1)
    torch.testing.assert_close(model(left, mask[1:].roll(17, 1)).logits[0], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("inputs", list(AUDIO))
def test_every_parameter_of_an_audio_model_learns(inputs):
    model = audio_model(inputs=inputs).train()
    mask = torch.arange(40) < torch.tensor([[40], [23]])
    model(recordings(inputs), mask, labels=torch.tensor([0, 2])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("make", [image_model, audio_model])
def test_saved_models_are_bit_equal(make, tmp_path):
    model = make()
    inputs = torch.randn(2, 1, 8, 12) if make is image_model else recordings("frames")
    model.save_pretrained(tmp_path)
    auto = AutoModelForImageClassification if make is image_model else AutoModelForAudioClassification
    reloaded = auto.from_pretrained(tmp_path).eval()
    assert type(reloaded) is type(model)
    assert torch.equal(model(inputs).logits, reloaded(inputs).logits)
    with pytest.raises(ValueError, match="AutoModelForImageClassification"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 9}, "no multiple of patch_size"),
        ({"patch_size": 16}, "nor the patch the input"),
        ({"patch_stride": 3}, "the stride may not exceed"),
        ({"audio_length": 10}, "contradict each other"),
        ({"image_size": None, "num_mel_bins": 4}, "needs audio_length"),
        ({"num_prefix_tokens": 0}, "leaves nothing for classifier_pooling='cls'"),
        ({"max_position_embeddings": 99}, "contradicts the 25 tokens"),
        ({"image_size": (4, 4, 4)}, "one number or two"),
        ({"patchsize": 2}, "Did you mean 'patch_size'"),
    ],
)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        image_model(**changes)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({}, ValueError, "exactly one"),
        ({"input_values": torch.zeros(2, 40)}, ValueError, "batch, frames, num_mel_bins"),
        ({"input_values": torch.zeros(2, 40, 7)}, ValueError, "7 mel bins"),
        ({"input_values": torch.zeros(2, 41, 8)}, ValueError, "41 frames exceeds audio_length=40"),
        ({"input_values": torch.zeros(2, 40, 8, dtype=torch.int)}, TypeError, "feature extractor"),
    ],
)
def test_wrong_recordings_are_refused(bad_input, arguments, error, message):
    with pytest.raises(error, match=message):
        audio_model()(**arguments)


def test_audio_pipelines(tmp_path):
    wave = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    model = audio_model(inputs="waveform", audio_length=2000)
    model.save_pretrained(tmp_path / "wave")
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / "wave")
    assert len(pipeline("audio-classification", model=str(tmp_path / "wave"))(wave)) == 3
    audio_model().save_pretrained(tmp_path / "mel")
    extractor = Speech2TextFeatureExtractor(feature_size=8, num_mel_bins=8, sampling_rate=8000)
    extractor.save_pretrained(tmp_path / "mel")
    assert len(pipeline("audio-classification", model=str(tmp_path / "mel"))(wave)) == 3


def test_image_pipeline(tmp_path):
    image = pytest.importorskip("PIL.Image")
    from transformers import ViTImageProcessorPil

    image_model(num_channels=3).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 12}).save_pretrained(tmp_path)
    found = pipeline("image-classification", model=str(tmp_path))(image.new("RGB", (30, 20), "red"))
    assert len(found) == 3
