"""What fine-tuning on images or audio does in the place of tokenising."""

import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoConfig
from transformers.utils import FEATURE_EXTRACTOR_NAME

from linformers.data.examples import Columns, Example
from linformers.data.tasks import Part
from linformers.data.tasks_media import MediaExample, Modality, Sound, decode_image, decode_sound, read_media
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.training.loading import LOCAL, reported

WINDOW, HOP = 400, 160  # samples of a log-mel frame and from one to the next, in transformers' feature extractors


class MediaPart(Dataset[Any]):
    """Images or recordings and labels of a part of a task; they are decoded when they are asked for.

    Attributes:
        lengths: 1 for an image; of recordings, samples.
        unit: Unit of the lengths.
        cut: recordings that are too long.
    """

    media: "Media"
    examples: list[Example]

    def __init__(self, part: Part, media: "Media", seen: Callable[[int], None] = lambda rows: None) -> None:
        self.media, self.examples = media, part.examples
        self.labels: Tensor = torch.from_numpy(part.labels)
        self.cut = 0
        self.unit = "images"
        self.lengths = np.ones(len(part), dtype=np.int64)
        if media.modality == "audio":
            self.unit: str = "samples"
            self.lengths: np.ndarray = np.array([media.length(example, seen) for example in part.examples])
            self.cut: int = int((self.lengths > media.longest).sum())

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input": self.media.load(self.examples[row]), "labels": self.labels[row]}

    @property
    def tokens(self) -> int:
        """What a model reads, without padding."""
        shares = (
            np.minimum(self.lengths / self.media.longest, 1) if math.isfinite(self.media.longest) else self.lengths > 0
        )
        return round(float(shares.sum()) * self.media.tokens)

    def fingerprint(self) -> bytes:
        """Changes with the files and their labels."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for example in self.examples:
            digest.update(example.text.encode())
        return digest.digest()


class Media:
    """Reads images or recordings, and makes batches of them as a model's processor does.

    Args:
        modality: ``image`` or ``audio``.
        model: folder or hub id, with the settings of the processor beside the weights.

    Raises:
        ValueError: there is no processor, or it cannot be loaded.
    """

    def __init__(self, modality: Modality, model: str) -> None:
        self.modality: Modality = modality
        if modality == "image" and importlib.util.find_spec("PIL") is None:
            raise ValueError("modality='image' needs Pillow: pip install 'linformers[vision]'")
        if Path(model).is_dir() and not (Path(model) / FEATURE_EXTRACTOR_NAME).is_file():
            raise ValueError(
                f"model={model!r} has no {FEATURE_EXTRACTOR_NAME}, which tells how its {modality} inputs are made: "
                "save the image processor or feature extractor of transformers there"
            )
        auto = transformers.AutoImageProcessor if modality == "image" else transformers.AutoFeatureExtractor
        with reported("model", model):
            config: Any = AutoConfig.from_pretrained(model, **LOCAL)
            self.processor: Any = auto.from_pretrained(model, **LOCAL)
        self.mode = "L" if getattr(config, "num_channels", 3) == 1 else "RGB"
        self.longest = math.inf  # samples
        self.shortest = 1 if getattr(config, "num_mel_bins", None) is None else WINDOW
        self.tokens = 0  # of the longest input; told when the model is there
        self.options: dict[str, Any] = {"return_tensors": "pt"}
        if modality == "audio":
            self._set_up_audio(config)

    def _set_up_audio(self, config: Any) -> None:
        rate = self.processor.sampling_rate
        options = {"padding": True, "return_attention_mask": True}
        most = getattr(config, "audio_length", None) or getattr(self.processor, "max_length", None)
        if most is not None:
            options |= {"truncation": True, "max_length": most}
            self.longest: Any = WINDOW + HOP * (most - 1) if self.shortest > 1 else most
        taken = inspect.signature(self.processor.__call__).parameters  # AST's pads and cuts by its own settings
        self.options |= {name: value for name, value in options.items() if name in taken} | {"sampling_rate": rate}

    def read(
        self, path: Path, columns: Columns, rejects: Rejects, progress: ReadProgress | None = None
    ) -> list[Example]:
        """See ``read_media``."""
        return read_media(path, self.modality, columns, rejects, progress)

    def load(self, example: Example) -> Any:
        """A Pillow image, or samples at the processor's rate."""
        assert isinstance(example, MediaExample)
        content = example.content
        if self.modality == "image":
            assert isinstance(content, bytes)
            return decode_image(content, self.mode)
        sound = content if isinstance(content, Sound) else decode_sound(content)
        samples = _resampled(sound, self.processor.sampling_rate)
        return np.pad(samples, (0, max(self.shortest - len(samples), 0)))  # what is shorter has no frame

    def length(self, example: Example, seen: Callable[[int], None]) -> int:
        """Samples of a recording; ``seen`` hears of it."""
        seen(1)
        return len(self.load(example))

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch: what the processor makes of the inputs, and the labels."""
        batch = self.processor([item["input"] for item in items], **self.options)
        return {**batch, "labels": torch.stack([item["labels"] for item in items])}


def _resampled(sound: Sound, rate: int) -> Float[np.ndarray, " samples"]:
    if sound.rate == rate:
        return sound.samples
    from scipy.signal import resample_poly

    common = math.gcd(sound.rate, rate)
    return resample_poly(sound.samples, rate // common, sound.rate // common).astype(np.float32)
