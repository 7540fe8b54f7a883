"""Labelled images and recordings: folders with a subfolder for each class, and Parquet files."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from linformers.data.examples import LABEL_COLUMNS, Columns, Example, is_missing
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.files.rows import Reject, choose_column, names
from linformers.files.sources import file_format

Modality = Literal["image", "audio"]
DATA_COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "picture", "pixels"),
    "audio": ("audio", "recording", "speech", "waveform", "samples", "pcm16"),
}
RATE_COLUMNS = ("sample_rate", "sampling_rate")
READ_AT_ONCE = 64  # rows of a Parquet file, which may be large


@dataclass(frozen=True)
class Sound:
    """Samples of one channel in [-1, 1], and how many there are in a second."""

    samples: Float[np.ndarray, " samples"]
    rate: int


@dataclass(frozen=True, slots=True)
class MediaExample(Example):
    """A labelled image or recording; its ``text`` is a digest, by which duplicates are found.

    Args:
        data: where it is, what such a file holds, or the samples.
        name: Name of the file, from the folder of the task.
    """

    noun: ClassVar[str] = "content"
    data: Path | bytes | Sound
    name: str

    @property
    def shown(self) -> str:
        """The file, without the folders of this machine."""
        return self.name

    @property
    def content(self) -> bytes | Sound:
        """What the file holds, or the samples."""
        return self.data.read_bytes() if isinstance(self.data, Path) else self.data


def read_media(
    path: Path, modality: Modality, columns: Columns, rejects: Rejects, progress: ReadProgress | None = None
) -> list[Example]:
    """The examples that can be decoded; the others are rejected with the reason.

    Raises:
        ValueError: neither such a folder nor a Parquet file, no such column, or too many bad files.
        FileNotFoundError: nothing there.
    """
    if path.is_dir():
        found = _folder_rows(path, columns)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the spelling")
    elif file_format(path) != ("parquet", None):
        raise ValueError(f"{path}: labelled {modality} data is a folder with a subfolder for each class, or .parquet")
    else:
        found = _parquet_rows(path, modality, columns)
    examples: list[Example] = []
    for share, file, line, row in found:
        if not isinstance(row, Reject):
            data, name, label = row
            row = _example(file, line, data, name, label, modality)
        if isinstance(row, Reject):
            rejects.reject(file, line, row.reason, row.value)
        else:
            examples.append(row)
            rejects.accept()
        if progress is not None:
            progress.reached(share)
            progress.add(1)
    return examples


Row = Reject | tuple[Any, str, Any]  # or the data, the name to show, and the label


def _example(file: str, line: int, data: Any, name: str, label: Any, modality: Modality) -> MediaExample | Reject:
    if is_missing(label):
        return Reject(line, "no label: it is empty", name)
    try:
        content = data.read_bytes() if isinstance(data, Path) else data
        if isinstance(content, Sound):
            _check_sound(content)
            digest = hashlib.sha256(content.samples.tobytes() + str(content.rate).encode())
        else:
            digest = hashlib.sha256(content)
            decode_image(content) if modality == "image" else decode_sound(content)
    except Exception as error:  # decoders of damaged files fail in many ways
        said = " ".join(str(error).split())
        return Reject(line, f"undecodable: no {modality} that can be read ({said})", name)
    return MediaExample(file, line, digest.hexdigest(), None, label, data, name)


def _folder_rows(folder: Path, columns: Columns) -> Iterator[tuple[float, str, int, Row]]:
    for option, name in (("text", columns.text), ("label", columns.label)):
        if name is not None:
            raise ValueError(f"{option}={name!r} has no effect on {folder}: a folder has no columns; leave it out")
    files = sorted(
        path
        for path in folder.glob("*/**/*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise ValueError(f"{folder}: no subfolder holds a file; give a folder with a subfolder for each class")
    for done, path in enumerate(files, start=1):
        inside = path.relative_to(folder)
        yield done / len(files), str(path), 1, (path, inside.as_posix(), inside.parts[0])


def _parquet_rows(path: Path, modality: Modality, columns: Columns) -> Iterator[tuple[float, str, int, Row]]:
    with _damage_named(path, 1):
        file = pq.ParquetFile(path)
    with file:
        schema, row = file.schema_arrow, 0
        data = choose_column(
            "--text",
            None if columns.text is None else columns.texts[0],
            DATA_COLUMNS[modality],
            schema.names,
            path,
            modality,
        )
        label = choose_column("--label", columns.label, LABEL_COLUMNS, schema.names, path, "label")
        rate, scale = None, 1.0
        kind = schema.field(data).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if modality == "audio" and is_list:
            rate = next((name for name in RATE_COLUMNS if name in schema.names), None)
            if rate is None:
                raise ValueError(f"{path}: samples in {data!r} need a column sample_rate ({names(schema.names)})")
            if pa.types.is_signed_integer(kind.value_type):
                scale = 2.0 ** (kind.value_type.bit_width - 1)
        elif not (pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(
                f"{path}: column {data!r} is {kind}, not the bytes of {modality} files, alone or in a struct with "
                f"their path as datasets stores them{' (nor samples)' if modality == 'audio' else ''}; give --text"
            )
        wanted = [name for name in (data, label, rate) if name is not None]
        batches = file.iter_batches(batch_size=READ_AT_ONCE, columns=wanted, use_threads=False)
        while True:
            with _damage_named(path, row + 1):
                batch = next(batches, None)
            if batch is None:
                return
            labels = batch.column(label)
            labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
            rates = [None] * len(labels) if rate is None else batch.column(rate).to_pylist()
            for value, one, hertz in zip(batch.column(data), labels.to_pylist(), rates, strict=True):
                row += 1
                found = _value(row, value, data, hertz, scale)
                made = found if isinstance(found, Reject) else (found, path.name, one)
                yield row / file.metadata.num_rows, str(path), row, made


@contextmanager
def _damage_named(path: Path, row: int) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}:{row}: the file cannot be read (damaged: {error}); repair it or take it away"
        ) from error


def _value(row: int, value: Any, column: str, rate: int | None, scale: float) -> Reject | bytes | Sound:
    if not value.is_valid:
        return Reject(row, f"empty: nothing in {column!r}", "")
    if isinstance(value, pa.StructScalar):
        fields = value.as_py()
        if fields.get("bytes") is None:
            return Reject(row, f"empty: no bytes in {column!r}", str(fields.get("path")))
        return fields["bytes"]
    if not isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return value.as_py()
    if not isinstance(rate, int) or rate < 1:
        return Reject(row, f"no sample rate: {rate!r} is no whole number above 0", "")
    samples = np.asarray(value.values.to_numpy(zero_copy_only=False), dtype=np.float32)
    return Sound(samples / np.float32(scale), rate)


def decode_image(content: bytes, mode: str = "RGB") -> Any:
    """A Pillow image of that mode (RGB or L).

    Raises:
        Exception: of Pillow, for what is no image.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as image:
            return image.convert(mode)


def decode_sound(content: bytes) -> Sound:
    """The mean of the channels of a WAV file.

    Raises:
        ValueError: no WAV file, or one that is empty or cut off.
    """
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no samples
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, samples = wavfile.read(io.BytesIO(content))
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    sound = Sound(samples.astype(np.float32).reshape(len(samples), -1).mean(1), int(rate))
    _check_sound(sound)
    return sound


def _check_sound(sound: Sound) -> None:
    if not len(sound.samples):
        raise ValueError("no samples")
    if not np.isfinite(sound.samples).all():
        raise ValueError("samples that are no numbers")
