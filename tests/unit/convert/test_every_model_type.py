"""Every model type of the installed transformers whose code calls the interface: covered, refused, or named."""

import csv
from pathlib import Path

import transformers
from interface_helpers import FAMILIES
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

TABLE = Path(__file__).parents[3] / "results" / "families-others.csv"
CALLS = "ALL_ATTENTION_FUNCTIONS"  # how models get at the function that attn_implementation names
ANSWERS = {"yes", "refused", "softmax still", "not tried"}


def calling_types() -> set[str]:
    """Model types that AutoModel knows, whose code calls the interface; read as text, as importing takes a minute."""
    folder = Path(transformers.__file__).parent / "models"
    return {
        model_type
        for model_type in MODEL_MAPPING_NAMES
        for path in (folder / model_type_to_module_name(model_type)).glob("modeling_*.py")
        if model_type != "linformer" and CALLS in path.read_text(encoding="utf-8")
    }


def test_each_is_covered_refused_or_named_with_a_reason() -> None:
    with TABLE.open(encoding="utf-8") as file:
        rows = {row["model type"]: row for row in csv.DictReader(line for line in file if not line.startswith("#"))}
    types = calling_types()
    assert len(types) > 100 and {"bert", "vit", "modernbert"} <= types
    missing = sorted(types - set(FAMILIES) - set(rows))
    assert not missing, (
        f"transformers {transformers.__version__} has encoders that no test and no table names: {', '.join(missing)}. "
        "Run python benchmarks/families.py --others, or add rows to tests/unit/convert/interface_helpers.py"
    )
    wrong = {name: row["linear"] for name, row in rows.items() if row["linear"] not in ANSWERS}
    assert not wrong, f"{TABLE.name} has other answers than {sorted(ANSWERS)}: {wrong}"
    silent = [name for name, row in rows.items() if row["linear"] != "yes" and not row["why"]]
    assert not silent, f"{TABLE.name} gives no reason for {', '.join(silent)}"
