"""The model of a folder, whatever runs it: token ids in, logits and hidden states out."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from linformers.convert.agreement import check_loaded
from linformers.convert.load import longest_input, saved_head
from linformers.convert.surroundings import encoder_folder
from linformers.data.tasks_rules import Kind, kind_of_config
from linformers.extraction.results import ANSWERS, TAGS
from linformers.files.folders import MODEL_FILES, hash_once
from linformers.scoring.columns import TrainedInputs
from linformers.scoring.sentence import read_sentences, sentence_files
from linformers.scoring.settings import Dtype, Reading, VectorSettings
from linformers.training.loading import LOCAL, REPORTED, load_tokenizer, reported

GRAPH, GRAPH_FACTS = "model.onnx", "export.json"
CLASSIFIERS: dict[str, Any] = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}
SCORERS = (*CLASSIFIERS, "Model", "ForMaskedLM")
ENCODERS = (*SCORERS, "ForMultipleChoice")
# Larger batches are no faster on a CPU (measured at hidden 384 and 768); ONNX Runtime, whose layers take all tokens at
# once, has them in cache in small ones (int8 of MiniLM, documents/s: 15 with 4,096 tokens, 20 with 512).
CPU_TOKENS, ONNX_TOKENS = 4096, 512

Ids = Int[Tensor, "batch seq"]
Mask = Bool[Tensor, "batch seq"]
Output = tuple[Float[Tensor, "batch *classes"] | None, Float[Tensor, "batch seq hidden"] | None]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model that is ready to run.

    Args:
        run: Takes ids, mask and token types (of pairs). Returns the logits of a classifier, or None, and the last
            hidden states, on their device, if they are asked for, or None.
        tokenizer: Tokenizer of transformers.
        architecture: Name of its class.
        runtime: ``torch`` or ``onnxruntime``.
        kind: Kind of the classifier, ``tags`` of one of tokens, ``answers`` of one that answers questions, whose logits
            are those of start and end of each token; None = an encoder.
        labels: Labels of the classifier, in the order of the logits; a regression has none.
        hidden_size: Size of the embeddings.
        max_length: The most tokens that it reads.
        parallel: batches at a time. On a CPU one for each thread, as far as memory allows: many operations are too
            small to be shared by threads (8 to 20% faster with two).
        threads: for each of them.
        batch_tokens: Tokens of a batch, padding included.
        trained: The inputs that it was trained on.
    """

    run: Callable[..., Output]
    tokenizer: Any
    architecture: str
    runtime: str
    kind: Kind | Literal["tags", "answers"] | None
    labels: list[str]
    hidden_size: int
    max_length: int
    parallel: int
    threads: int
    batch_tokens: int
    trained: TrainedInputs = TrainedInputs()

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of it."""
        names = ("architecture", "runtime", "kind", "labels", "max_length")
        return {name: getattr(self, name) for name in names}


def hash_model(folder: Path, *, vectors: bool = False) -> str:
    """Hash of the files that decide what a model computes; with ``vectors`` also of those that pool and normalise."""
    inner = Path(encoder_folder(folder))
    files = sorted({path for pattern in MODEL_FILES for path in inner.glob(pattern) if path.is_file()})
    facts = "".join(f"{path.name} {hash_once(path)}\n" for path in files)
    if vectors:
        facts += "".join(f"{path.relative_to(folder)} {hash_once(path)}\n" for path in sentence_files(folder))
    return hashlib.sha256(facts.encode()).hexdigest()


def load_network(reading: Reading | VectorSettings) -> Network:
    """The model of a folder: through ONNX Runtime if it is an export, else through torch, on a GPU if there is one.

    Args:
        reading: For scores, a classifier or an encoder; for embeddings an encoder, or what a head was trained on.

    Raises:
        ValueError: a model that cannot be loaded, lacks weights, or is neither a classifier nor an encoder of texts.
    """
    embeds = isinstance(reading, VectorSettings)
    with reported("model", reading.model):
        folder = Path(encoder_folder(reading.model))
        config: Any = AutoConfig.from_pretrained(folder, **LOCAL)
    tokenizer = load_tokenizer("model", reading.model)
    exported = (folder / GRAPH).is_file() and not any(folder.glob("*.safetensors"))
    facts = _read_facts(folder) if exported else {}
    architecture = facts["architecture"] if exported else (config.architectures or ["Model"])[0]
    head = saved_head({"architectures": [architecture]} if exported else config.to_dict(), Path(reading.model))
    if head not in (ENCODERS if embeds else SCORERS):
        what = "score takes classifiers, taggers, encoders of texts and models that answer questions"
        what = "embed takes encoders of texts" if embeds else what
        raise ValueError(f"model={reading.model!r} is a {architecture}; {what}")
    if exported and not embeds and head == "ForQuestionAnswering":
        raise ValueError(
            f"model={reading.model!r} is an export of a {architecture}, which score does not run: give the model"
        )
    auto = None if embeds else CLASSIFIERS.get(head)
    classifies = auto is not None
    states = embeds or reading.embeddings or not classifies
    device = torch.device("cuda" if torch.cuda.is_available() and not exported else "cpu")
    dtype = reading.arithmetic if embeds else reading.dtype
    if exported and dtype != "float32":
        option = "arithmetic" if embeds else "dtype"
        raise ValueError(f"{option}={dtype} has no effect on an export: leave it out, or export as onnx-int8")
    model = None if exported else _load(folder, reading.model, dtype, auto, device)
    longest = facts["max_length"] if model is None else longest_input(model)
    if reading.max_length is not None and reading.max_length > longest:
        raise ValueError(f"max_length={reading.max_length} is more than the {longest:,} tokens that the model reads")
    trained = TrainedInputs.of(config.to_dict())
    usual = min(longest, tokenizer.model_max_length)
    if embeds:  # the tokenizer's length is a setting of sentence-transformers
        usual = min(usual, read_sentences(reading.model).max_length or usual)
    else:
        usual = min(usual, trained.max_length or usual)
    length = reading.max_length or usual
    enough = ONNX_TOKENS if exported else CPU_TOKENS
    parallel, batch_tokens = _plan_batches(config, reading.memory, length, device, enough)
    threads = max(torch.get_num_threads() // parallel, 1)
    if model is None:
        run = _onnx(folder, facts, reading.model, classifies, states, threads)
    else:
        run = _torch(model, classifies, states, device)
    kind = kind_of_config(config)
    kind = TAGS if head == "ForTokenClassification" else ANSWERS if head == "ForQuestionAnswering" else kind
    named = classifies and kind not in ("regression", ANSWERS)
    labels = [str(name) for _, name in sorted(config.id2label.items())] if named else []
    if len(set(labels)) < len(labels):
        raise ValueError(f"model={reading.model!r} has two labels of one name; correct id2label in its config.json")
    return Network(
        run=run,
        tokenizer=tokenizer,
        architecture=architecture,
        runtime="onnxruntime" if exported else "torch",
        kind=kind if classifies else None,
        labels=labels,
        hidden_size=config.hidden_size,
        max_length=length,
        parallel=parallel,
        threads=threads,
        batch_tokens=batch_tokens,
        trained=trained,
    )


def _plan_batches(config: Any, memory: int, length: int, device: torch.device, enough: int) -> tuple[int, int]:
    """Batches at a time, and the tokens of each.

    Their hidden states, queries, keys, values and feed-forward fit into the memory, in float32.
    """
    hidden = config.hidden_size
    fit = memory // (4 * (8 * hidden + 2 * getattr(config, "intermediate_size", 4 * hidden)))
    if device.type != "cpu":
        return 1, max(length, fit)
    tokens = min(fit, enough)  # whatever the threads: the same batches on every machine
    return max(min(torch.get_num_threads(), fit // max(length, tokens)), 1), tokens


def _load(folder: Path, name: str, dtype: Dtype, auto: Any, device: torch.device) -> PreTrainedModel:
    with reported("model", name):
        model, report = (auto or AutoModel).from_pretrained(
            folder, use_safetensors=True, dtype=getattr(torch, dtype), **REPORTED, **LOCAL
        )
    check_loaded(f"model={name!r}", model, report, head=auto is not None)
    return model.to(device).eval().requires_grad_(False)


def _torch(model: PreTrainedModel, classifies: bool, states: bool, device: torch.device) -> Callable[..., Output]:
    hidden: dict[int, Tensor] = {}  # by thread
    if states and classifies:  # the classifier need not return what its encoder makes
        model.base_model.register_forward_hook(lambda _, __, output: hidden.update({threading.get_ident(): output[0]}))

    @torch.inference_mode()
    def run(ids: Ids, mask: Mask | None, kinds: Ids | None = None) -> Output:
        ids, mask = ids.to(device), None if mask is None else mask.to(device)
        types = {} if kinds is None else {"token_type_ids": kinds.to(device)}
        output = model(input_ids=ids, attention_mask=mask, **types)
        logits = None
        if classifies:
            found = output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], -1)
            logits = found.float().cpu()
        return logits, hidden.pop(threading.get_ident(), None) if classifies else output[0]

    return run


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / GRAPH_FACTS).read_text(encoding="utf-8"))
        return {name: facts[name] for name in ("architecture", "max_length", "session_config")}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds a model.onnx without its {GRAPH_FACTS}; export the model again") from error


def _onnx(
    folder: Path, facts: dict[str, Any], name: str, classifies: bool, states: bool, threads: int
) -> Callable[..., Output]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"model={name!r} is an export: pip install 'linformers[onnx]'") from error
    if classifies and states:
        raise ValueError("embeddings are not among the outputs of an exported classifier: give the model itself")
    if facts["architecture"].endswith("ForMaskedLM"):
        raise ValueError(f"model={name!r} is an exported masked LM, which gives no embeddings: give the model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    for key, value in facts["session_config"].items():  # several times faster
        options.add_session_config_entry(key, value)
    with reported("model", name):
        session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(ids: Ids, mask: Mask | None, kinds: Ids | None = None) -> Output:
        kept = torch.ones_like(ids) if mask is None else mask.long()
        inputs = {"input_ids": ids, "attention_mask": kept, "token_type_ids": torch.zeros_like(ids)}
        inputs |= {} if kinds is None else {"token_type_ids": kinds}
        output = torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in names})[0])
        return (output, None) if classifies else (None, output)

    return run
