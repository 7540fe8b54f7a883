"""A converted model computes what its teacher computes, for every family and head, where no slot holds two tokens."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast, pipeline

import linformers
from linformers import to_linformer
from linformers.attention import LinformerAttention, SoftmaxAttention
from linformers.convert.families import FAMILIES
from linformers.convert.fit import fit_projections
from linformers.convert.linformer import start_as_pooling

CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "distilbert": "DistilBert"}
CLASSES |= {"electra": "Electra", "camembert": "Camembert"}
ROBERTAS = ("roberta", "xlm-roberta", "camembert")  # whose positions begin behind the padding
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
]
LENGTHS = torch.tensor([[21], [9], [1]])


def teacher_of(family: str, head: str = "Model", **changes) -> transformers.PreTrainedModel:
    """A tiny teacher, far from the trivial biases and norms that models start with."""
    settings = {
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 26 if family in ROBERTAS else 24,
        "pad_token_id": 1,
    }
    if family == "distilbert":
        settings["hidden_dim"] = settings.pop("intermediate_size")
    else:
        settings["type_vocab_size"] = 1 if family in ROBERTAS else 2
    if family == "electra":
        settings["embedding_size"] = 16
    if head in ("ForSequenceClassification", "ForTokenClassification"):
        settings["id2label"] = {0: "bad", 1: "fair", 2: "good"}
    config = getattr(transformers, f"{CLASSES[family]}Config")(**settings | changes)
    teacher = getattr(transformers, f"{CLASSES[family]}{head}")(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return teacher


def inputs_of(teacher: transformers.PreTrainedModel, head: str) -> dict[str, torch.Tensor]:
    """Three sequences of 21, 9 and 1 tokens; of two segments where the family has them."""
    mask = (torch.arange(21) < LENGTHS).long()
    inputs = {"input_ids": torch.randint(5, 60, (3, 21)).where(mask.bool(), 1), "attention_mask": mask}
    if getattr(teacher.config, "type_vocab_size", 1) == 2:
        inputs["token_type_ids"] = (torch.arange(21) > 5).long().expand(3, -1)
    if head == "ForMultipleChoice":
        inputs = {name: value.unsqueeze(0) for name, value in inputs.items()}
    return inputs


def compare(teacher, student, head: str) -> None:
    """Hidden states and outputs agree to 1e-5 at kept tokens."""
    inputs = inputs_of(teacher, head)
    with torch.no_grad():
        expected, got = (m(**inputs, output_hidden_states=True) for m in (teacher, student))
    keep = inputs["attention_mask"].flatten(0, -2).bool()
    pairs = list(zip(expected.hidden_states, got.hidden_states, strict=True))
    names = [n for n in ("last_hidden_state", "logits", "start_logits", "end_logits") if n in expected]
    assert len(pairs) == 3 and names
    pairs += [(expected[name], got[name]) for name in names]
    for theirs, ours in pairs:
        assert theirs.shape == ours.shape
        per_token = theirs.shape[:2] == keep.shape
        assert_close(ours[keep] if per_token else ours, theirs[keep] if per_token else theirs)


def assert_close(ours, theirs) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_short_texts_are_exact(family: str, head: str, tmp_path: Path) -> None:
    teacher = teacher_of(family, head)
    compare(teacher, to_linformer(teacher, projected_dim=20, exact_length=0), head)
    teacher.save_pretrained(tmp_path / "teacher")
    to_linformer(tmp_path / "teacher", projected_dim=21, global_tokens=0).save_pretrained(tmp_path / "student")
    auto = getattr(transformers, f"Auto{'Model' if head == 'Model' else 'Model' + head}")
    student = auto.from_pretrained(tmp_path / "student")
    assert type(student).__name__ == f"Linformer{head}" and student.config.converted_from == "teacher"
    assert student.config.id2label == teacher.config.id2label
    compare(teacher, student, head)


@pytest.mark.parametrize(("family", "head"), [("bert", "ForPreTraining"), ("electra", "ForPreTraining")])
def test_pretraining_heads(family: str, head: str, tmp_path: Path) -> None:
    teacher = teacher_of(family, head)
    teacher.save_pretrained(tmp_path)
    student = to_linformer(tmp_path, projected_dim=24)
    inputs = inputs_of(teacher, head)
    if family == "bert":
        assert_close(student(**inputs).logits[0], teacher(**inputs).prediction_logits[0])
    else:  # its head tells replaced tokens, for which there is no head here
        assert type(student).__name__ == "LinformerModel"
        compare(teacher.base_model, student, "Model")


@pytest.mark.parametrize(
    ("family", "head", "changes"),
    [
        ("bert", "ForMaskedLM", {"tie_word_embeddings": False}),
        ("bert", "ForMaskedLM", {"hidden_act": "relu"}),
        ("electra", "ForMultipleChoice", {"summary_activation": "tanh"}),
        ("distilbert", "ForSequenceClassification", {"problem_type": "regression", "num_labels": 1, "id2label": None}),
        ("roberta", "ForSequenceClassification", {"layer_norm_eps": 0.1}),
        ("roberta", "ForMaskedLM", {"pad_token_id": 3, "max_position_embeddings": 28}),  # four rows for padding
    ],
)
def test_settings_of_the_teacher(family: str, head: str, changes: dict) -> None:
    teacher = teacher_of(family, head, **changes)
    student = to_linformer(teacher, projected_dim=20)
    compare(teacher, student, head)
    assert student.config.problem_type == teacher.config.problem_type


def test_long_texts_are_approximated() -> None:
    teacher = teacher_of("bert")
    inputs = inputs_of(teacher, "Model")
    expected = teacher(**inputs).last_hidden_state[0]
    errors = [
        (to_linformer(teacher, **options)(**inputs).last_hidden_state[0] - expected).norm().item()
        / expected.norm().item()
        for k, w in ((2, 0), (12, 0), (2, 20))
        for options in [{"projected_dim": k, "local_window": w, "exact_length": 0}]
    ]
    assert errors[0] > errors[1] > 3e-5 > 1e-5 > errors[2]  # a window over everything is exact as well


def test_teacher_is_not_changed() -> None:
    teacher = teacher_of("roberta", "ForMaskedLM")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = to_linformer(teacher, max_length=48)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("softmax_layers", [[0], [-2], [0, -2]])
def test_hybrid_stack(softmax_layers: list[int]) -> None:
    student = to_linformer(teacher_of("bert"), projected_dim=4, softmax_layers=softmax_layers)
    first, second = (layer.attention for layer in student.encoder.layers)
    assert type(first) is SoftmaxAttention and type(second) is LinformerAttention
    assert student.config.layer_attention == [("softmax", None), ("linformer", 4)]


@pytest.mark.parametrize("options", [{"attention_type": "softmax"}, {"softmax_layers": [0, 1]}])
def test_all_layers_softmax(options: dict) -> None:
    teacher = teacher_of("electra")
    student = to_linformer(teacher, **options)
    assert student.config.local_window == student.config.global_tokens == 0
    compare(teacher, student, "Model")


def test_k_free() -> None:
    student = to_linformer(teacher_of("bert"), attention_type="kfree")
    assert student.config.layer_attention == [("kfree", None)] * 2


@pytest.mark.parametrize("sharing", ["none", "headwise", "key_value", "layerwise"])
def test_linear_starts_as_pooling(sharing: str) -> None:
    teacher = teacher_of("bert")
    student = to_linformer(
        teacher, projected_dim=5, projection_kind="linear", projection_sharing=sharing, local_window=0
    )
    for name, weight in student.named_parameters():
        if "projections" in name:
            assert ((weight > 0).sum(-1) == 1).all()
            assert_close(weight.sum(-2), torch.ones_like(weight.sum(-2)))
    random = to_linformer(teacher, projected_dim=5, projection_kind="linear", projection_init="random")
    assert (random.encoder.layers[0].attention.key_projection.weight < 0).any()


@pytest.mark.parametrize(("kind", "sharing"), [("linear", "key_value"), ("linear", "none"), ("conv", "layerwise")])
def test_fit_brings_attention_nearer(kind: str, sharing: str, tokenizer, tmp_path: Path) -> None:
    teacher = teacher_of("bert")
    teacher.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = [" ".join(words()[i : i + 15]) for i in range(8)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    options = {"projected_dim": 6, "projection_kind": kind, "projection_sharing": sharing, "local_window": 0}
    errors = []
    for more in ({}, {"projection_init": "fit", "texts": texts}):
        student = to_linformer(tmp_path, **options, **more)
        states = teacher(**inputs, output_hidden_states=True).hidden_states
        exact = to_linformer(teacher, attention_type="softmax")
        gaps = [
            (ours.attention(x) - theirs.attention(x)).square().sum()
            for ours, theirs, x in zip(student.encoder.layers, exact.encoder.layers, states, strict=False)
        ]
        errors.append(sum(gap.item() for gap in gaps))
        weights = dict(student.named_parameters())
        assert all(p.requires_grad and p.grad is None for p in weights.values())
        assert torch.equal(weights["encoder.layers.0.attention.q_proj.weight"], teacher_weight(teacher))
    assert errors[1] < 0.9 * errors[0]


def test_fit_reads_what_attention_reads_behind_a_norm(tokenizer) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape |= {"vocab_size": 60, "max_position_embeddings": 24, "projected_dim": 6, "norm_position": "pre"}
    teacher = linformers.LinformerModel(linformers.LinformerConfig(**shape, attention_type="softmax")).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in teacher.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    student = linformers.LinformerModel(linformers.LinformerConfig(**shape)).eval()
    student.load_state_dict(teacher.state_dict(), strict=False)
    start_as_pooling(student)
    texts = [" ".join(words()[i : i + 15]) for i in range(8)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)

    def gap() -> float:
        states = teacher(**inputs, output_hidden_states=True).hidden_states
        pairs = zip(student.encoder.layers, teacher.encoder.layers, states, strict=False)
        return sum(
            (a.attention(a.attention_norm(x)) - b.attention(b.attention_norm(x))).square().sum().item()
            for a, b, x in pairs
        )

    before = gap()
    fit_projections(student, teacher, tokenizer, texts)
    assert gap() < 0.03 * before, "without the norm it is 0.08"


def teacher_weight(teacher) -> torch.Tensor:
    return teacher.encoder.layer[0].attention.self.query.weight


@pytest.fixture
def tokenizer():
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words()])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4, "cls": 0, "sep": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": special[i] for name, i in names.items()},
        model_max_length=24,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def words() -> list[str]:
    return [a + b for a in "bcdfg" for b in "aeiouy"] + [a + b + a for a in "klmnp" for b in "aeiou"]


@pytest.mark.parametrize(
    ("head", "task", "text"),
    [
        ("ForMaskedLM", "fill-mask", "ba be <mask> bo"),
        ("ForSequenceClassification", "text-classification", "ba be bi bo da"),
        ("ForTokenClassification", "token-classification", "ba be bi bo da"),
        ("Model", "feature-extraction", "ba be bi bo da"),
    ],
)
def test_pipelines_agree(head: str, task: str, text: str, tokenizer, tmp_path: Path) -> None:
    teacher = teacher_of("bert", head)
    student = to_linformer(teacher, projected_dim=24)
    results = []
    for name, model in (("teacher", teacher), ("student", student)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        results.append(pipeline(task, model=str(tmp_path / name))(text))
    flat = [json.dumps(numbers_apart(result)[0]) for result in results]
    assert flat[0] == flat[1]
    assert numbers_apart(results[0])[1] == pytest.approx(numbers_apart(results[1])[1], abs=1e-5)


def numbers_apart(value) -> tuple:
    """What a pipeline gave, without its floats, and the floats."""
    floats: list[float] = []

    def walk(x):
        if isinstance(x, dict):
            return {key: walk(item) for key, item in x.items()}
        if isinstance(x, list):
            return [walk(item) for item in x]
        if isinstance(x, int | str | None):
            return x
        floats.append(float(x))
        return None

    return walk(value), floats


def test_special_tokens_and_names(tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "my-bert" / "model"
    teacher_of("bert").save_pretrained(folder)
    assert to_linformer(folder).config.bos_token_id is None
    tokenizer.save_pretrained(folder)
    config = to_linformer(folder).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 2, 1)
    assert config.converted_from == "my-bert/model"
    assert AutoTokenizer.from_pretrained(folder).cls_token_id == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"projection_kind": "mean_pol"}, "Did you mean 'mean_pool'"),
        ({"projection_init": "fits"}, "Did you mean 'fit'"),
        ({"projection_init": "fit", "texts": ["a"]}, "nothing to fit"),
        ({"projection_init": "fit", "projection_kind": "linear"}, "needs texts"),
        ({"projection_init": "fit", "projection_kind": "linear", "texts": ["a"]}, "tokenizer"),
        ({"projection_init": "random"}, "needs projection_kind='linear'"),
        ({"texts": ["a"]}, "read only by"),
        ({"softmax_layers": [2]}, "2 layers, 0 to 1"),
        ({"softmax_layers": [-3]}, "at least -2"),
        ({"projected_dim": 0}, "projected_dim must be at least 1, got 0"),
        ({"projected_dim": [4, -1]}, "projected_dim must be at least 1, got -1"),
        ({"projected_dim": [4]}, "1 entries for 2 layers"),
        ({"max_length": 0}, "at least 1"),
        ({"max_length": 30, "positions": "stretch"}, "positions='stretch'"),
        ({"positions": "stretch"}, "positions='stretch'"),
        ({"attention_type": "linear"}, "attention_type"),
        ({"attention_type": "none"}, "attention_type='none'"),
    ],
)
def test_wrong_options(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        to_linformer(teacher_of("bert"), **options)


def tiny_albert() -> transformers.PreTrainedModel:
    sizes = {"vocab_size": 9, "embedding_size": 8, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    return transformers.AlbertModel(transformers.AlbertConfig(**sizes))


def test_models_that_cannot_be_converted(bad_input) -> None:
    cases = [
        (teacher_of("bert", is_decoder=True), "is_decoder=True"),
        (teacher_of("electra", embedding_size=8), "embedding_size=8"),
        (teacher_of("electra", "ForPreTraining"), "ElectraForPreTraining"),
        (transformers.BertLMHeadModel(teacher_of("bert").config), "a BertLMHeadModel: its head"),
        (teacher_of("roberta", "ForMaskedLM", hidden_act="relu"), "hidden_act='relu'"),
        (teacher_of("bert", "ForQuestionAnswering", id2label={0: "a", 1: "b", 2: "c"}), "num_labels=3"),
        (teacher_of("electra", "ForMultipleChoice", summary_type="mean"), "summary_type='mean'"),
        (to_linformer(teacher_of("bert")), "is a Linformer already"),
        (tiny_albert(), "model_type='albert'"),
    ]
    for teacher, said in cases:
        with pytest.raises(ValueError, match=said):
            to_linformer(teacher)
    with pytest.raises(TypeError, match="got Linear"):
        to_linformer(torch.nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]


def test_folders_that_cannot_be_converted(tmp_path: Path) -> None:
    def folder(name: str, **changes) -> Path:
        teacher_of("bert").save_pretrained(tmp_path / name)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return tmp_path / name

    code = folder("code", auto_map={"AutoModel": "modeling_mine.MyModel"})
    (code / "modeling_mine.py").write_text("raise SystemExit('this must never run')")
    unknown = folder("unknown", model_type="mine", auto_map={"AutoModel": "modeling_mine.MyModel"})
    (unknown / "modeling_mine.py").write_text("raise SystemExit('this must never run')")
    pickled = folder("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cut, broken, no_words = folder("cut"), folder("broken"), folder("no-words")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:2000])
    (broken / "config.json").write_text("{")
    (no_words / "tokenizer.json").write_text("{}")
    for path, error, said in (
        (code, ValueError, "never run here"),
        (unknown, ValueError, "model_type='mine'"),
        (pickled, OSError, "no weights as safetensors"),
        (folder("head", architectures=["BertForNextSentencePrediction"]), ValueError, "NextSentencePrediction"),
        (folder("other", architectures=["BertForMaskedLM"]), ValueError, "lacks weights of its BertForMaskedLM"),
        (folder("decoder", is_decoder=True), ValueError, "is_decoder=True"),
        (folder("shape", vocab_size=61), ValueError, "embeddings.word_embeddings.weight has shape"),
        (cut, OSError, r"model=.*cut cannot be read \("),
        (broken, OSError, r"model=.*broken cannot be read \("),
        (no_words, OSError, r"the tokenizer of model=.*no-words cannot be read \("),
        (tmp_path / "nothing", OSError, "nothing is no folder"),
    ):
        with pytest.raises(error, match=said):
            to_linformer(path)


def test_public_name() -> None:
    assert linformers.to_linformer is to_linformer


def test_a_family_that_is_not_known_is_told_of_its_own_class(tmp_path):
    """Under the name of another family it would be converted, and wrongly."""
    transformers.AlbertModel(
        transformers.AlbertConfig(hidden_size=16, num_attention_heads=2, vocab_size=50)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='attn_implementation="linformers"') as caught:
        to_linformer(tmp_path, projected_dim=4)
    assert "Did you mean" not in str(caught.value)
