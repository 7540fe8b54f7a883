import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, pipeline

import linformers

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "two",
    "birds",
    "in",
    "one",
    "old",
    "tree",
    "who",
    "where",
]


@pytest.fixture
def tokenizer():
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
    )


def saved(name, tiny_config, tokenizer, folder):
    getattr(linformers, name)(tiny_config()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_fill_mask(tiny_config, tokenizer, tmp_path):
    pipe = pipeline("fill-mask", model=saved("LinformerForMaskedLM", tiny_config, tokenizer, tmp_path))
    assert len(pipe("the cat <mask> on a mat")) == 5


def test_text_classification(tiny_config, tokenizer, tmp_path):
    pipe = pipeline(
        "text-classification", model=saved("LinformerForSequenceClassification", tiny_config, tokenizer, tmp_path)
    )
    texts = ["the cat sat on a mat and saw two birds", "one old tree"]
    together, alone = pipe(texts, batch_size=2), [pipe(text)[0] for text in texts]
    for a, b in zip(together, alone, strict=True):
        assert a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], abs=1e-6)


def test_token_classification(tiny_config, tokenizer, tmp_path):
    pipe = pipeline(
        "token-classification", model=saved("LinformerForTokenClassification", tiny_config, tokenizer, tmp_path)
    )
    assert len(pipe("the cat sat")) == 3


def test_question_answering_and_features(tiny_config, tokenizer, tmp_path):
    folder = saved("LinformerForQuestionAnswering", tiny_config, tokenizer, tmp_path)
    from transformers import AutoModel, AutoModelForQuestionAnswering, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)("who sat", "the cat sat on a mat", return_tensors="pt")
    output = AutoModelForQuestionAnswering.from_pretrained(folder)(**tokens)
    assert output.start_logits.shape == output.end_logits.shape == tokens["input_ids"].shape
    features = pipeline("feature-extraction", model=AutoModel.from_pretrained(folder), tokenizer=tokenizer)("the cat")
    assert len(features[0]) == 4 and len(features[0][0]) == 32
