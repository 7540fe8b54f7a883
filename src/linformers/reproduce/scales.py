"""What is run at a scale: ``recipes/reproduce/{smoke,laptop,paper}.yaml``, strict YAML like the pretraining recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import linformers
from linformers.checks import check_choice
from linformers.files.settings import Count, Natural, Positive, StrictModel, build, override, read_yaml
from linformers.measure.contenders import Shape

ScaleName = Literal["smoke", "laptop", "paper"]
SCALES: tuple[ScaleName, ...] = ("smoke", "laptop", "paper")


class Figure1Scale(StrictModel):
    """Figure 1, the spectrum.

    Args:
        models: Paths or hub ids of encoders; ``minilm`` is all-MiniLM-L6-v2 from its package, ``tiny`` is random.
        texts: Names of ``linformers.reproduce.figure1.TEXTS``; without --data, the books that ship with the package.
        count: Texts of each kind.
        length: Tokens of a text.
        index: The singular value that the heat map shows.
    """

    models: tuple[str, ...]
    texts: tuple[str, ...]
    count: Count
    length: Count = 512
    index: Count = 128


class TimingScale(StrictModel):
    """Figure 2 and Table 3: passes over random tokens.

    Args:
        lengths: Lengths n, in tokens.
        dims: Numbers of slots k.
        shape: The shape of the encoders.
        fields: Fields of LinformerConfig, for ours.
        memory: The memory in which the largest batches are to fit.
        batch_tokens: Tokens of the batch in which the memory of a sequence is measured; longer ones go by themselves.
        repeats: Passes of a cell at most; the first does not count.
        cell_seconds: Seconds after which no further pass of a cell starts.
        pass_limit: Seconds of the longest pass; cells with longer ones are left out.
        dtype: The type of weights and activations.
    """

    lengths: tuple[Count, ...]
    dims: tuple[Count, ...]
    shape: Shape
    fields: dict[str, Any]
    memory: str = "16GB"
    batch_tokens: Count = 16384
    repeats: Count = 5
    cell_seconds: Positive = 4.0
    pass_limit: Positive = 150.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Figure3Scale(StrictModel):
    """Figure 3, pretraining.

    Args:
        recipes: The folder of the recipes, below ``recipes/``.
        cells: A recipe and changes to it, by the cell's name.
        changes: Changes to all of them.
        seeds: Further seeds, of the cells in ``seeded``.
        seeded: Names of cells; ``x-seed1`` is ``x`` with another seed.
        compare: Names of the cells that claims compare: ``softmax``, ``control`` (no attention), ``quarter`` (k = n/4),
            ``unshared`` and ``layerwise``; ``dims``: by growing k; ``lengths``: by growing n at one k.
        sources: Paths of the text, below --data; none = what the recipes say.
        launch: The module and options that run ``linformers pretrain``; none = this process.
        jobs: Runs at a time.
        rounds: Rounds of measuring steps.
    """

    recipes: str
    cells: dict[str, Any]
    compare: dict[str, Any]
    changes: tuple[str, ...] = ()
    seeds: tuple[Natural, ...] = ()
    seeded: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    launch: tuple[str, ...] = ()
    jobs: Count = 1
    rounds: Count = 4

    def _check(self) -> None:
        unknown = [name for name in self.seeded if name not in self.cells]
        if unknown:
            raise ValueError(f"seeded names {unknown[0]!r}, which is none of the cells: {', '.join(self.cells)}")


class Table2Scale(StrictModel):
    """Table 2, classification.

    Args:
        tasks: Options of ``linformers finetune`` by task; ``student_epochs`` are those of students, 0 =
            they are measured as they are converted.
        teacher: The model that is fine-tuned and converted, as ``models`` of Figure 1; none = no conversion.
        teacher_rate: The learning rate of the teacher, and of ``encoders``.
        student_rate: The learning rate of a student: it starts where its teacher stands, and would lose that at the
            teacher's rate.
        students: Arguments of ``to_linformer``, by the student's name; of ``linearise`` where that knows no class of
            ours for the teacher.
        more_students: Further students, by task.
        scratch: Tasks where a converted shape with random weights is trained as long as a student.
        encoders: Cells of Figure 3 that are fine-tuned, by name.
    """

    tasks: dict[str, Any]
    teacher: str | None = None
    teacher_rate: Positive = 1e-4
    student_rate: Positive = 2e-5
    students: dict[str, Any]
    more_students: dict[str, Any]
    scratch: tuple[str, ...] = ()
    encoders: dict[str, Any]

    def _check(self) -> None:
        if self.teacher is None and not self.encoders:
            raise ValueError("teacher is missing, and there are no encoders either: give one of them")

    def students_of(self, task: str) -> dict[str, Any]:
        """All of a task."""
        return {**self.students, **self.more_students.get(task, {})} if self.teacher is not None else {}


class Scale(StrictModel):
    """A whole scale.

    Args:
        about: A sentence that says what can be expected of it.
        figure1: The spectrum.
        figure2: The times by length.
        table3: The times and memory by length and k.
        figure3: The pretraining.
        table2: The classification.
        decides: Whether claims can be decided at it at all.
        needs_gpu: Whether training is out of reach without a GPU.
    """

    about: str
    figure1: Figure1Scale
    figure2: TimingScale
    table3: TimingScale
    figure3: Figure3Scale
    table2: Table2Scale
    decides: bool = True
    needs_gpu: bool = False


def recipes_folder() -> Path:
    """The recipes that ship with the package, or those of the clone that it is installed from."""
    package = Path(linformers.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def load_scale(name: str, changes: Sequence[str] = ()) -> Scale:
    """Read a scale, and apply ``target.key=value``.

    Raises:
        ValueError: no such scale or key, or a value that does not do; the message names file and line.
    """
    check_choice("scale", name, SCALES)
    data, places = read_yaml(recipes_folder() / "reproduce" / f"{name}.yaml")
    override(data, places, changes)
    return build(Scale, data, places)
