"""Convert a model into a folder: weights, tokenizer, how far it is from its teacher, and a card that says so."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils import FEATURE_EXTRACTOR_NAME

from linformers._registration import ATTENTION
from linformers.attention.sharing import PROJECTION_KINDS
from linformers.checks import check_choice
from linformers.convert.fairseq import convert_fairseq_linformer
from linformers.convert.fidelity import Fidelity, measure_fidelity
from linformers.convert.interface import Settings, layer_slots, settings_of
from linformers.convert.linearise import linearise
from linformers.convert.linformer import to_linformer
from linformers.convert.load import (
    find_tokenizer,
    has_longest_input,
    load_processor,
    load_teacher,
    longest_input,
    name_of,
    reading,
)
from linformers.convert.parity import check_parity
from linformers.convert.patches import ALL_FAMILIES
from linformers.convert.surroundings import carry, modules_of, with_surroundings
from linformers.data.documents import first_texts
from linformers.data.tokenise import forget_limits
from linformers.files.environment import describe_environment
from linformers.files.folders import check_output, write_folder
from linformers.files.hub import check_repo, push_folder
from linformers.files.progress import ReadProgress
from linformers.files.sources import Source
from linformers.models.config import LinformerConfig
from linformers.models.silence import silenced
from linformers.report.cards import CARD, converted_card

CONVERSION, FIDELITY = "conversion.json", "fidelity.json"
ARCHITECTURES = ("own", "linformer")
SETTINGS = (  # of our config, that the card shows
    "attention_type",
    "projected_dim",
    "projection_kind",
    "projection_sharing",
    "local_window",
    "global_tokens",
    "exact_length",
)
FEW_SLOTS = 8
EVERY_LENGTH = 2**31 - 1  # tokens: no input is longer
INPUTS = {"pixel_values": "images", "input_values": "recordings", "input_features": "recordings"}


@dataclass(frozen=True, kw_only=True)
class _Converted:
    """A converted model, and what is known of it."""

    student: PreTrainedModel
    name: str
    teacher: PreTrainedModel | None
    teacher_length: int
    exact_length: int
    exact_up_to: int
    settings: dict[str, Any]


def convert_to_folder(
    model: str,
    output: Path,
    options: Mapping[str, Any],
    *,
    defaults: Collection[str] = (),
    architecture: str = "own",
    sources: Sequence[Source] = (),
    fit_sources: Sequence[Source] = (),
    max_texts: int = 64,
    max_reject_share: float = 0.01,
    push_to_hub: str | None = None,
    console: Console,
) -> dict[str, Any]:
    """Write the converted model; the folder appears whole or not at all.

    A model that does not compute what its teacher computes on short texts is not written.

    Args:
        model: folder or hub id of what is converted, or a safetensors file of fairseq's Linformer-RoBERTa.
        output: new folder, or one of an earlier conversion, which is replaced.
        options: Arguments of ``linearise`` or ``to_linformer``; ``max_length``, ``positions`` and ``projection_kind``
            are among them. For a file the first two, and those of ``convert_fairseq_linformer``.
        defaults: Which of them nobody gave: a model that is linear already keeps its own settings instead.
        architecture: ``own``, the model's class, with all that a folder of sentence-transformers holds around it; or
            ``linformer``, ours. A file of fairseq becomes ours.
        sources: texts on which to measure how far the result is from its teacher.
        fit_sources: texts to fit projections to.
        max_texts: how many of the texts are used, from the first on.
        max_reject_share: Largest share of unusable ones among the records that are read.
        push_to_hub: repository of the Hugging Face hub to upload the folder to, as ``user/name``.
        console: where to print.

    Returns:
        What ``conversion.json`` in the folder holds.

    Raises:
        ValueError: a model or option that cannot be used, or an output folder of something else.
        OSError: a file that is not there; or the upload failed, after the folder was written.
    """
    check_choice("architecture", architecture, ARCHITECTURES)
    check_output(output, CONVERSION)
    if push_to_hub is not None:
        check_repo(push_to_hub)
    texts = first_texts("texts", sources, max_texts, max_reject_share, console.print)
    fit_texts = first_texts("fit_texts", fit_sources, max_texts, max_reject_share, console.print)
    own = architecture == "own" and not Path(model).is_file()
    with reading(model):
        folder = with_surroundings(model) if own else model
    started = time.perf_counter()
    tokenizer, processor, inputs, linear = None, None, "texts", False
    if Path(model).is_file():
        made = _of_fairseq(model, options)
    else:
        teacher = load_teacher(folder, None if own else ALL_FAMILIES)
        linear = own and getattr(teacher.config, ATTENTION, None) is not None
        if linear:
            unsaid = {*defaults} & {field.name for field in fields(Settings)}
            options = {name: value for name, value in options.items() if name not in unsaid}
        inputs = INPUTS.get(teacher.main_input_name, "texts")
        if inputs == "texts":
            tokenizer = find_tokenizer(folder)
            _check_length(options, longest_input(teacher))
        else:
            processor = load_processor(folder)
            for name, given in (("texts", texts), ("fit_texts", fit_texts)):
                if given:
                    raise ValueError(f"{name} has no effect on {model}, which reads {inputs}: leave it out")
        if texts and tokenizer is None:
            raise ValueError(
                f"{model} has no tokenizer, and texts={sources[0].path} needs one: copy it beside the weights"
            )
        made = _own(teacher, options) if own else _linformer(teacher, options, fit_texts, tokenizer, console)
        if linear:
            kept = ", ".join(f"{name}={value}" for name, value in made.settings.items() if name not in options)
            console.print(f"{model} is linear already, and keeps what is not given: {kept}")
    student, teacher = made.student, made.teacher
    seconds, longest = time.perf_counter() - started, longest_input(student)
    known = has_longest_input(student)
    up_to = f", up to {longest:,} tokens" if known else ""
    console.print(
        f"{made.name} -> {type(student).__name__}, {student.num_parameters():,} parameters{up_to}, in {seconds:.1f} s"
    )
    if teacher is not None:
        _say_parity(made, inputs, tokenizer, console, own=own, linear=linear)
    if known and longest <= made.exact_length:
        console.print(
            f"it takes no input longer than the {made.exact_length:,} tokens that softmax attention reads: give a "
            "greater --max-length (text), or a smaller --exact-length or --segment-length"
        )
    for line in _slots(made, longest if known else None):
        console.print(line)
    fidelity = None
    if texts and teacher is not None:
        with ReadProgress(console, "measuring", unit="texts") as progress:
            fidelity = measure_fidelity(student, teacher, tokenizer, texts, on_progress=_shown_by(progress))
        console.print(fidelity_table(fidelity))
        if fidelity.longest <= made.exact_length:
            console.print(
                f"softmax attention itself read all texts, as it does up to {made.exact_length:,} tokens; with a "
                "smaller --exact-length or --segment-length the slots are measured"
            )
    facts = {
        "converted_from": made.name,
        "architecture": type(student).__name__,
        "own_class": own,
        "sentence_transformers": own and bool(modules_of(Path(folder))),
        "command": shlex.join(["linformers", *map(_public, sys.argv[1:])]),
        "options": dict(options),
        "settings": made.settings | ({"longest input": longest} if known else {}),
        "inputs": inputs,
        "has_teacher": teacher is not None,
        "was_linear": linear,
        "teacher_length": made.teacher_length if known else None,
        "max_length": longest if known else None,
        "exact_length": made.exact_length,
        "exact_up_to": made.exact_up_to,
        "texts": [_public(source.path) for source in sources],
        "fit_texts": [_public(source.path) for source in fit_sources],
        "seconds": round(seconds, 2),
        "environment": describe_environment(student.device),
    }
    notes: list[str] = []

    def write(target: Path) -> None:
        inner = carry(Path(folder), target, options["max_length"], notes) if own else target
        student.save_pretrained(inner)
        if tokenizer is not None:
            if not own or options["max_length"] is not None:
                tokenizer.model_max_length = longest
            forget_limits(tokenizer)
            tokenizer.save_pretrained(str(inner))
        if processor is not None:
            (inner / FEATURE_EXTRACTOR_NAME).write_text(json.dumps(processor, indent=2), encoding="utf-8")
        (target / CONVERSION).write_text(json.dumps(facts | {"notes": notes}, indent=2), encoding="utf-8")
        if fidelity is not None:
            (target / FIDELITY).write_text(json.dumps(fidelity.to_dict(), indent=2), encoding="utf-8")
        converted_card(facts | {"notes": notes}, fidelity, model, folder).save(target / CARD)

    with silenced():
        write_folder(output, write)
    for note in notes:
        console.print(note)
    console.print(f"model in {output}; what it is, and its limits: {output / CARD}")
    if inputs != "texts":
        if processor is None:
            console.print(
                f"{model} has no {FEATURE_EXTRACTOR_NAME}: pipelines need one, so save a processor to {output}"
            )
    elif tokenizer is None:
        folders = output if teacher is None else f"{model} and to {output}"
        console.print(f"{model} has no tokenizer: copy one of the same vocabulary to {folders}")
    if push_to_hub is not None:
        console.print(f"uploaded to {push_folder(output, push_to_hub)}")
    return facts


def _of_fairseq(file: str, options: Mapping[str, Any]) -> _Converted:
    known = {name: value for name, value in options.items() if name in ("num_attention_heads", "classification_head")}
    student: Any = convert_fairseq_linformer(file, **known)
    before = student.config.max_position_embeddings
    if options["max_length"] is not None:
        student.resize_max_length(options["max_length"], options["positions"])
    after = student.config.max_position_embeddings
    exact = before if after == before else 0
    return _described(student, None, before, exact)


def _linformer(
    teacher: PreTrainedModel, options: Mapping[str, Any], fit_texts: Sequence[str], tokenizer: Any, console: Console
) -> _Converted:
    """A model of ours."""
    with ReadProgress(console if fit_texts else None, "fitting", unit="steps") as progress:
        student = to_linformer(
            teacher, **options, texts=fit_texts, tokenizer=tokenizer, on_progress=_shown_by(progress)
        )
    before, config = longest_input(teacher), student.config
    exact = _exact_up_to(config, layer_slots(config), before, longest_input(student), options["positions"])
    return _described(student, teacher, before, exact)


def _described(student: Any, teacher: PreTrainedModel | None, before: int, exact_up_to: int) -> _Converted:
    config = student.config
    return _Converted(
        student=student,
        name=config.converted_from,
        teacher=teacher,
        teacher_length=before,
        exact_length=config.exact_length,
        exact_up_to=exact_up_to,
        settings={name: getattr(config, name) for name in SETTINGS},
    )


def _own(teacher: PreTrainedModel, options: Mapping[str, Any]) -> _Converted:
    """The model in its own class."""
    student = linearise(teacher, **options)
    settings, before, after = settings_of(student.config), longest_input(teacher), longest_input(student)
    ends = (before, after) if has_longest_input(student) else (EVERY_LENGTH, EVERY_LENGTH)
    return _Converted(
        student=student,
        name=name_of(teacher),
        teacher=teacher,
        teacher_length=before,
        exact_length=settings.softmax_length,
        exact_up_to=_exact_up_to(settings, layer_slots(student.config), *ends, options["positions"]),
        settings=asdict(settings),
    )


def _slots(made: _Converted, longest: int | None) -> Iterator[str]:
    """What numbers of slots mean that are unusually great or small."""
    dims = layer_slots(made.student.config)
    many, few = [k for k in dims if longest and k and k >= longest], [k for k in dims if k and k < FEW_SLOTS]
    if many:
        yield (
            f"--projected-dim {max(many)} is no fewer slots than the {longest:,} tokens of the longest input: nothing "
            "is compressed, and it is no faster than softmax attention; take fewer, or a greater --max-length"
        )
    if few:
        length = f" of more than {made.exact_length:,} tokens" if made.exact_length else ""
        yield (
            f"--projected-dim {min(few)} lets each token see the whole of a text{length} as {min(few)} "
            f"slot{'s' * (min(few) > 1)}: --texts measures how far that is from the teacher"
        )


def _say_parity(made: _Converted, inputs: str, tokenizer: Any, console: Console, *, own: bool, linear: bool) -> None:
    """Compare with the teacher on what both read exactly; where that is nothing, with softmax attention.

    Images and recordings cannot be made short.
    """
    teacher = made.teacher
    assert teacher is not None
    if made.exact_up_to and (inputs == "texts" or made.exact_up_to >= made.teacher_length):
        student, subject, length = made.student, "gives", made.exact_up_to
    else:
        subject, length = "with softmax attention in its place gives", made.teacher_length
        if own:
            student = linearise(teacher, exact_length=EVERY_LENGTH)
        else:
            student = to_linformer(teacher, attention_type="softmax")
    found = check_parity(student, teacher, tokenizer, length)
    if found is None:
        console.print(f"not compared with its teacher, as its input ({teacher.main_input_name}) is not known here")
    else:
        what = f"texts of up to {found:,} tokens" if found else f"random {inputs}"
        rival = "softmax attention with its weights" if linear else "its teacher"
        console.print(f"{subject} what {rival} gives on {what}")


def _check_length(options: Mapping[str, Any], teacher_length: int) -> None:
    asked, kind = options["max_length"], options.get("projection_kind", Settings.projection_kind)
    fits = kind in PROJECTION_KINDS and not PROJECTION_KINDS[kind].has_parameters
    if asked is not None and 0 < asked < teacher_length and fits:
        raise ValueError(
            f"max_length={asked} is below the {teacher_length:,} tokens of the teacher, and gains nothing with "
            f"projection_kind={kind!r}, which fits slots to each text: leave it out"
        )


def _exact_up_to(
    settings: LinformerConfig | Settings, dims: Sequence[int | None], before: int, after: int, positions: str
) -> int:
    """Tokens of the longest inputs for which a converted model computes what its teacher computes.

    Args:
        settings: Settings of its attention.
        dims: slots of each layer, see ``layer_slots``.
        before: tokens that its teacher reads.
        after: tokens that it reads.
        positions: how positions have grown.
    """
    if segment_length := getattr(settings, "segment_length", 0):
        return min(before, after, segment_length)
    k_free, slots = 0 in dims, [k for k in dims if k]
    mixed = slots and not PROJECTION_KINDS[settings.projection_kind].stands_for_tokens
    if k_free or mixed or (after != before and positions == "interpolate"):
        return 0
    # Where each token has a slot, or all are within the window, no token is read through a slot that holds two.
    near = max(settings.exact_length, settings.local_window + 1 + settings.global_tokens)
    sharpened = getattr(settings, "trained_length", 0) or before  # queries of longer texts are multiplied
    return min([before, after, sharpened, *(max(k + settings.global_tokens, near) for k in slots)])


def _public(argument: str) -> str:
    """An argument without the folders of this machine, as the result may be published."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (name_of(value) if Path(value).is_absolute() else value)


def _shown_by(progress: ReadProgress) -> Callable[[int, int], None]:
    def show(done: int, whole: int) -> None:
        progress.reached(done / whole)
        progress.add(done - progress.count)

    return show


def fidelity_table(fidelity: Fidelity) -> Table:
    """The distance to the teacher, layer by layer."""
    table = Table(
        title=f"Distance to the teacher: {fidelity.texts:,} texts, {fidelity.tokens:,} tokens, the longest "
        f"{fidelity.longest:,}",
        caption=f"cosine of the mean embedding of a text: {fidelity.embedding_cosine:.4f}",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("layer", "cosine", "relative error"):
        table.add_column(name, justify="right")
    for i, layer in enumerate(fidelity.layers):
        table.add_row(str(i or "embeddings"), f"{layer.cosine:.4f}", f"{layer.relative_error:.4f}")
    return table
