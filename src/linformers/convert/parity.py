"""Whether a converted model computes what its teacher computes, on a few inputs that both read exactly."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from linformers.data.books import load_books
from linformers.data.tokenise import TextEncoder

LENGTHS = (8, 40, 512)  # tokens of the texts, one padded to the next
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the size of the outputs
LOW_PRECISION = 5e-2


def check_parity(student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: Any | None, longest: int) -> int | None:
    """Compare the outputs of two models, on parts of a book or on random images or recordings.

    Args:
        student: The converted model.
        teacher: What it was converted from.
        tokenizer: The tokenizer of both models; None = random tokens.
        longest: Tokens up to which both should agree.

    Returns:
        Tokens of the longest text, or 0 for images and recordings; None where there is nothing to compare.

    Raises:
        ValueError: They differ, or one gives what is no number.
    """
    compared = None
    for inputs in _inputs(teacher, tokenizer, longest):
        with torch.no_grad():
            ours, theirs = (_main_output(model(**inputs)) for model in (student, teacher))
        mask = inputs.get("attention_mask")
        if mask is not None and ours.shape[:2] == mask.shape:
            ours, theirs = ours[mask.bool()], theirs[mask.bool()]
        error = float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-12))
        length = 0 if mask is None else mask.shape[1]
        if not error <= TOLERANCE.get(teacher.dtype, LOW_PRECISION):
            what = f"on texts of up to {length} tokens" if length else "on a random input"
            raise ValueError(
                f"the converted model is not its teacher: outputs differ by {error:.2g} of their size {what}; nothing "
                "was written. Please report it with the teacher's config.json"
            )
        compared = max(length, compared or 0)
    return compared


def _main_output(outputs: Any) -> Tensor:
    """Hidden states, logits, or what comes first."""
    for name in ("last_hidden_state", "logits", "prediction_logits", "start_logits"):
        if outputs.get(name) is not None:
            return outputs[name]
    return next(value for value in outputs.values() if isinstance(value, Tensor))


def _inputs(model: PreTrainedModel, tokenizer: Any | None, longest: int) -> Iterator[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    config: Any = model.config
    if model.main_input_name == "pixel_values":
        size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
        x = torch.randn(2, config.num_channels, *size, generator=draws)
        yield {"pixel_values": x.to(model.device, model.dtype)}
    elif config.model_type == "audio-spectrogram-transformer":
        x = torch.randn(2, config.max_length, config.num_mel_bins, generator=draws)
        yield {"input_values": x.to(model.device, model.dtype)}
    elif model.main_input_name == "input_values":
        yield {"input_values": torch.randn(2, 8000, generator=draws).to(model.device, model.dtype)}
    elif model.main_input_name == "input_ids" and longest > 0:
        lengths = sorted({min(length, longest) for length in LENGTHS})
        book, encoder = next(iter(load_books())).text, tokenizer and TextEncoder(tokenizer)
        rows = [
            torch.randint(5, config.vocab_size, (length,), generator=draws)
            if encoder is None
            else torch.from_numpy(encoder.inputs([book], max_length=length).rows[0]["input_ids"]).long()
            for length in lengths
        ]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id or 0)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        if type(model).__name__.endswith("ForMultipleChoice"):
            ids, mask = ids[None], mask[None]
        yield {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
