"""What is run at a scale: ``recipes/reproduce/{smoke,laptop,paper}.yaml``, strict YAML like the pretraining recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator
from typing_extensions import Self

import linformers
from linformers.checks import check_choice
from linformers.files.settings import Count, Natural, Positive, StrictModel, build, override, read_yaml
from linformers.measure.contenders import Shape

ScaleName = Literal["smoke", "laptop", "paper"]
SCALES: tuple[ScaleName, ...] = ("smoke", "laptop", "paper")


class Figure1Scale(StrictModel):
    """Figure 1, the spectrum.

    Args:
        models: folders or hub ids of encoders; ``minilm`` is all-MiniLM-L6-v2 from its package, ``tiny`` is random.
        texts: of ``linformers.reproduce.figure1.TEXTS``; without --data, the books that ship with the package.
        count: of each kind of text.
        length: tokens of a text.
        index: of the heat map.
    """

    models: tuple[str, ...]
    texts: tuple[str, ...]
    count: Count
    length: Count = 512
    index: Count = 128


class TimingScale(StrictModel):
    """Figure 2 and Table 3: passes over random tokens.

    Args:
        lengths: n.
        dims: k.
        shape: of the encoders.
        fields: of LinformerConfig, for ours.
        memory: in which the largest batches are to fit.
        batch_tokens: what a sequence takes is measured in a batch of so many tokens; longer ones by themselves.
        repeats: passes of a cell at most; the first does not count.
        cell_seconds: no further pass of a cell starts after this.
        pass_limit: leave out cells with longer passes, in seconds.
        dtype: of weights and activations.
    """

    lengths: tuple[Count, ...]
    dims: tuple[Count, ...]
    shape: Shape
    fields: dict
    memory: str = "16GB"
    batch_tokens: Count = 16384
    repeats: Count = 5
    cell_seconds: Positive = 4.0
    pass_limit: Positive = 150.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Figure3Scale(StrictModel):
    """Figure 3, pretraining.

    Args:
        recipes: folder of the recipes, below ``recipes/``.
        cells: by name, a recipe and changes to it.
        changes: to all of them.
        seeds: further ones, of the cells in ``seeded``.
        seeded: names of cells; ``x-seed1`` is ``x`` with another seed.
        compare: for the claims, names of the cells ``softmax``, ``control`` (no attention), ``quarter`` (k = n/4),
            ``unshared`` and ``layerwise``; ``dims``: by growing k; ``lengths``: by growing n at one k.
        sources: of the text, below --data; none = what the recipes say.
        launch: module and options that run ``linformers pretrain``; none = this process.
        jobs: runs at a time.
        rounds: of measuring steps.
    """

    recipes: str
    cells: dict
    compare: dict
    changes: tuple[str, ...] = ()
    seeds: tuple[Natural, ...] = ()
    seeded: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    launch: tuple[str, ...] = ()
    jobs: Count = 1
    rounds: Count = 4

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [name for name in self.seeded if name not in self.cells]
        if unknown:
            raise ValueError(f"seeded names {unknown[0]!r}, which is none of the cells: {', '.join(self.cells)}")
        return self


class Table2Scale(StrictModel):
    """Table 2, classification.

    Args:
        tasks: by name, options of ``linformers finetune``; ``student_epochs`` are those of students.
        teacher: what is fine-tuned and converted: as ``models`` of Figure 1; none = no conversion.
        teacher_rate: its learning rate, and that of ``encoders``.
        student_rate: a student starts where its teacher stands; at the teacher's rate it would lose that.
        students: by name, arguments of ``to_linformer``.
        more_students: by task, further ones.
        scratch: tasks where a converted shape with random weights is trained as long as a student.
        encoders: by name, cells of Figure 3 that are fine-tuned.
    """

    tasks: dict
    teacher: str | None = None
    teacher_rate: Positive = 1e-4
    student_rate: Positive = 2e-5
    students: dict
    more_students: dict
    scratch: tuple[str, ...] = ()
    encoders: dict

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.teacher is None and not self.encoders:
            raise ValueError("teacher is missing, and there are no encoders either: give one of them")
        return self

    def students_of(self, task: str) -> dict[str, Any]:
        """All of a task."""
        return {**self.students, **self.more_students.get(task, {})} if self.teacher is not None else {}


class Scale(StrictModel):
    """A whole scale.

    Args:
        about: in a sentence, what can be expected of it.
        decides: whether claims can be decided at it at all.
        needs_gpu: whether training is out of reach without one.
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
