"""Classify or embed texts with an exported model, without PyTorch: onnxruntime, tokenizers and numpy are enough.

    linformers export --model MODEL --output EXPORT        # once, anywhere; or with --format onnx-int8
    python examples/onnx_inference.py EXPORT "A text." "Another text."
    python examples/onnx_inference.py EXPORT --file texts.txt --embeddings embeddings.npy

Texts longer than the model reads are an error, or cut with --truncate.

Prints a line of JSON for each text: its label and the probabilities, or the size of its embedding (the mean of its
tokens' last hidden states), which goes to the file of --embeddings, a row for each text.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

TOKENS_AT_ONCE = 8192  # of a batch, padding included


class Model:
    """An exported folder.

    Args:
        folder: what ``linformers export`` wrote.
        threads: of ONNX Runtime.
        truncate: cut texts that are too long.
    """

    def __init__(self, folder: Path, threads: int | None = None, truncate: bool = False) -> None:
        for name in ("model.onnx", "tokenizer.json", "config.json", "export.json"):
            if not (folder / name).is_file():
                raise SystemExit(f"error: {folder} has no {name}: give a folder that `linformers export` wrote")
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        self.architecture = facts["architecture"]
        if not self.architecture.endswith(("ForSequenceClassification", "Model")):
            raise SystemExit(
                f"error: {folder} holds a {self.architecture}; this example is for classifiers of texts and encoders"
            )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.longest = facts["max_length"]
        if truncate:
            self.tokenizer.enable_truncation(self.longest)
        else:
            self.tokenizer.no_truncation()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        for name, value in facts["session_config"].items():  # several times faster
            options.add_session_config_entry(name, value)
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Logits, or embeddings: a row for each text."""
        encodings = self.tokenizer.encode_batch(list(texts))
        for number, encoding in enumerate(encodings, start=1):
            if len(encoding.ids) > self.longest:
                raise SystemExit(
                    f"error: text {number} has {len(encoding.ids):,} tokens, and the model reads at most "
                    f"{self.longest:,}: split it, or cut it with --truncate"
                )
        rows: dict[int, np.ndarray] = {}
        for batch in batches([len(encoding.ids) for encoding in encodings]):
            inputs = self._pad([encodings[row] for row in batch])
            wanted = {one.name for one in self.session.get_inputs()}
            output = np.asarray(self.session.run(None, {name: inputs[name] for name in wanted})[0])
            if output.ndim == 3:  # hidden states
                keep = inputs["attention_mask"][..., None]
                output = (output * keep).sum(1) / keep.sum(1)
            rows.update(zip(batch, output, strict=True))
        return np.stack([rows[row] for row in range(len(texts))])

    def _pad(self, encodings: Sequence[Encoding]) -> dict[str, np.ndarray]:
        shape = (len(encodings), max(len(encoding.ids) for encoding in encodings))
        inputs = {
            "input_ids": np.full(shape, self.config.get("pad_token_id") or 0, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            inputs["input_ids"][row, :length] = encoding.ids
            inputs["attention_mask"][row, :length] = 1
            inputs["token_type_ids"][row, :length] = encoding.type_ids
        return inputs

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of each class; for a regression the values themselves."""
        kind = self.config.get("problem_type")
        if kind == "regression" or logits.shape[1] == 1:
            return logits
        if kind == "multi_label_classification":
            return 1 / (1 + np.exp(-logits))
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def named(self, scores: np.ndarray) -> dict[str, object]:
        """One text's value, or its label and the probabilities by label."""
        if len(scores) == 1:
            return {"value": float(scores[0])}
        named = dict(zip(self.labels, map(float, scores), strict=True))
        several = self.config.get("problem_type") == "multi_label_classification"
        best = (
            [name for name, one in named.items() if one >= 0.5] if several else max(named, key=lambda name: named[name])
        )
        return {"label": best, "probabilities": {name: round(one, 6) for name, one in named.items()}}

    @property
    def labels(self) -> list[str]:
        """Names of the classes."""
        names = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        return [names[key] for key in sorted(names, key=int)]


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of about the same length, so that little is padded."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def main() -> None:
    """Read texts, run the model, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `linformers export` wrote")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--file", type=Path, help="texts, one a line")
    parser.add_argument("--embeddings", type=Path, help=".npy file for the embeddings")
    parser.add_argument("--threads", type=int, help="default: the processor's")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    arguments = parser.parse_args()
    texts = list(arguments.texts)
    if arguments.file:
        texts += [line for line in arguments.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        parser.error("no texts: give some, or --file")

    model = Model(arguments.folder, arguments.threads, arguments.truncate)
    outputs = model(texts)
    if model.architecture.endswith("Model"):
        if arguments.embeddings:
            np.save(arguments.embeddings, outputs)
        for text, embedding in zip(texts, outputs, strict=True):
            shown = {} if arguments.embeddings else {"embedding": [round(float(x), 6) for x in embedding]}
            print(json.dumps({"text": text, "size": len(embedding), **shown}, ensure_ascii=False))
        return
    for text, scores in zip(texts, model.probabilities(outputs), strict=True):
        print(json.dumps({"text": text, **model.named(scores)}, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
