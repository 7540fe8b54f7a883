"""Passes over random tokens, for Figure 2 and Table 3; both use the same cells."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from linformers.commands.benchmark import BenchmarkSettings, Plan
from linformers.measure.contenders import linformer, rival
from linformers.reproduce.cells import Context, measured
from linformers.reproduce.scales import TimingScale

SOFTMAX = ("softmax-eager", "softmax-sdpa")


def make_plan(scale: TimingScale, device: str) -> Plan:
    """Ours at every k, and softmax attention written out and fused.

    Raises:
        ValueError: a field or a number that does not do.
    """
    settings = BenchmarkSettings(
        device=device,  # type: ignore[arg-type]
        dtype=scale.dtype,
        repeats=scale.repeats,
        cell_seconds=scale.cell_seconds,
        pass_limit=scale.pass_limit,
    )
    return Plan(
        contenders=[
            *(linformer(scale.shape, k, scale.fields) for k in scale.dims),
            *(rival(name, scale.shape) for name in SOFTMAX),
        ],
        lengths=scale.lengths,
        settings=settings,
        options={"shape": scale.shape.model_dump(), "fields": scale.fields},
    )


def measure_one(scale: TimingScale, context: Context) -> list[dict[str, Any]]:
    """Batches of 1."""
    return measured(make_plan(scale, context.device), context)


def measure_batches(scale: TimingScale, context: Context) -> list[dict[str, Any]]:
    """One pass of ``batch_tokens`` tokens at each shorter length, for its peak."""
    plan = make_plan(scale, context.device)
    rows: list[dict[str, Any]] = []
    for length in (n for n in sorted(scale.lengths) if n < scale.batch_tokens):
        settings = plan.settings.model_copy(update={"batch_size": scale.batch_tokens // length, "repeats": 1})
        rows += measured(replace(plan, lengths=[length], settings=settings), context)
    return rows


def about(scale: TimingScale) -> str:
    """What is measured, in a sentence."""
    shape = scale.shape
    return (
        f"hidden {shape.hidden_size:,}, {shape.num_attention_heads} heads, intermediate {shape.intermediate_size:,}, "
        f"{shape.num_hidden_layers} layer(s), {scale.dtype}, forward pass on random tokens, batch 1, medians; each "
        "cell in a process of its own"
    )


def by_length(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by name and length."""
    return {(row["name"], row["length"]): row for row in rows}
