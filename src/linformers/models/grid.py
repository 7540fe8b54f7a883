"""How an image or a recording is cut into patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from linformers.checks import check_int

Size = tuple[int, int]


@dataclass(frozen=True)
class PatchGrid:
    """A field of so many rows and columns (pixels; mel bins and frames; one row of samples), and patches of it."""

    size: Size
    patch: Size
    stride: Size

    @property
    def overlaps(self) -> bool:
        """Whether patches are not just laid side by side."""
        return self.stride != self.patch

    @property
    def shape(self) -> Size:
        """Rows and columns of patches in the whole field."""
        return self.shape_of(self.size)

    @property
    def tokens(self) -> int:
        """Patches of the whole field."""
        return self.shape[0] * self.shape[1]

    def shape_of(self, size: Sequence[int]) -> Size:
        """Rows and columns of patches in a field of another size."""
        rows, columns = (
            (extent - patch) // stride + 1 for extent, patch, stride in zip(size, self.patch, self.stride, strict=True)
        )
        return rows, columns


def patch_grid(config: Any) -> PatchGrid | None:
    """The grid that the fields of a configuration describe, checked.

    Raises:
        TypeError: a size that is no int.
        ValueError: fields that are out of range or contradict each other.
    """
    audio = config.audio_length is not None
    if config.image_size is None and not audio:
        if config.num_mel_bins is not None:
            raise ValueError(f"num_mel_bins={config.num_mel_bins} needs audio_length, the most frames of an input.")
        return None
    if config.image_size is not None and audio:
        raise ValueError("image_size and audio_length contradict each other: give the one of the model's inputs.")
    check_int("num_channels", config.num_channels)
    check_int("num_prefix_tokens", config.num_prefix_tokens, minimum=0)
    if config.classifier_pooling != "mean" and not config.num_prefix_tokens:
        pooling = config.classifier_pooling
        raise ValueError(
            f"num_prefix_tokens=0 leaves nothing for classifier_pooling={pooling!r}: use 'mean', or 1 token."
        )
    waveform = audio and config.num_mel_bins is None
    if audio:
        for name in ("audio_length",) if waveform else ("audio_length", "num_mel_bins"):
            check_int(name, getattr(config, name))
    size = (config.num_mel_bins or 1, config.audio_length or 1) if audio else pair("image_size", config.image_size)
    patch = pair("patch_size", config.patch_size, waveform)
    stride = patch if config.patch_stride is None else pair("patch_stride", config.patch_stride, waveform)
    grid = PatchGrid(size, patch, stride)
    for extent, part, step in zip(size, patch, stride, strict=True):
        if part > extent or step > part:
            raise ValueError(
                f"patches of patch_size={patch} at patch_stride={stride} do not cover an input of {size}: the stride "
                "may not exceed the patch, nor the patch the input."
            )
        if not grid.overlaps and extent % part:
            raise ValueError(f"an input of {size} is no multiple of patch_size={patch}: choose another of them.")
    return grid


def pair(field: str, value: Any, waveform: bool = False) -> Size:
    """Two numbers, from one that stands for both; a waveform has one row."""
    values = tuple(value) if isinstance(value, list | tuple) else ((1, value) if waveform else (value, value))
    if len(values) != 2:
        raise ValueError(f"{field}={value} must be one number or two (height and width, or mel bins and frames).")
    for one in values:
        check_int(field, one)
    return values
