"""Make transformers' Auto classes and pipelines know ``linformer``, at no cost until transformers is imported.

transformers keeps *names* in its tables (model type -> class name) and imports
``transformers.models.<model type>`` when a class is first asked for. We enter our names into those tables, and this
package under that module's name; nothing of ours is imported then, so no circular import can arise. Where the
tables of models have been built already, their public ``register`` is called instead, which needs the classes.

``attn_implementation="linformers"`` is registered through transformers' public interfaces for attention and masks, when
a model first asks for it. A configuration with a key ``linformers`` asks by itself, and models that take no
implementation refuse it, but for MPNet, whose classes are made to take ours.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODEL_TYPE = "linformer"
CONFIG_CLASS = "LinformerConfig"

# Auto class -> (transformers' table of names for it, our class; of several that which config.json names, or the first).
AUTO_CLASSES: dict[str, tuple[str, str | tuple[str, ...]]] = {
    "AutoModel": ("MODEL_MAPPING_NAMES", ("LinformerModel", "LinformerImageModel", "LinformerAudioModel")),
    "AutoModelForTextEncoding": ("MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES", "LinformerModel"),
    "AutoModelForPreTraining": ("MODEL_FOR_PRETRAINING_MAPPING_NAMES", "LinformerForMaskedLM"),
    "AutoModelForMaskedLM": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "LinformerForMaskedLM"),
    "AutoModelForSequenceClassification": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "LinformerForSequenceClassification",
    ),
    "AutoModelForTokenClassification": (
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        "LinformerForTokenClassification",
    ),
    "AutoModelForQuestionAnswering": ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "LinformerForQuestionAnswering"),
    "AutoModelForImageClassification": (
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "LinformerForImageClassification",
    ),
    "AutoModelForAudioClassification": (
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        "LinformerForAudioClassification",
    ),
    "AutoModelForMultipleChoice": ("MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES", "LinformerForMultipleChoice"),
}

ATTENTION = "linformers"  # attn_implementation, and the key of its settings in config.json
_TARGETS = {  # RoBERTa's modules -> ours
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
}
_PEFT = "peft.utils.constants"
_CONFIGURATION_AUTO = "transformers.models.auto.configuration_auto"
_CONFIGURATION_UTILS = "transformers.configuration_utils"
_MODELING_UTILS = "transformers.modeling_utils"
_MODELING_AUTO = "transformers.models.auto.modeling_auto"
_MPNET = "transformers.models.mpnet.modeling_mpnet"


def _name_config(configuration_auto: ModuleType) -> None:
    configuration_auto.CONFIG_MAPPING_NAMES[MODEL_TYPE] = CONFIG_CLASS


def _name_models(modeling_auto: ModuleType) -> None:
    for table, class_name in AUTO_CLASSES.values():
        getattr(modeling_auto, table)[MODEL_TYPE] = class_name


def _register_models(modeling_auto: ModuleType) -> None:
    _name_models(modeling_auto)
    package = importlib.import_module("linformers")
    config_class = getattr(package, CONFIG_CLASS)
    for auto_class, (_, names) in AUTO_CLASSES.items():
        several = isinstance(names, tuple)
        classes = tuple(getattr(package, name) for name in names) if several else getattr(package, names)
        getattr(modeling_auto, auto_class)._model_mapping.register(config_class, classes)


def _name_targets(constants: ModuleType) -> None:
    """What adapters of peft reach if nobody says what."""
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("MODULES_MAPPING") and "roberta" in table:
            table[MODEL_TYPE] = [_TARGETS[target] for target in table["roberta"] if target in _TARGETS]


def _later(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        # Importing it registers the function itself.
        return getattr(importlib.import_module("linformers.convert.interface"), name)(*args, **kwargs)

    return call


def _register_attention(modeling_utils: ModuleType) -> None:
    # A model that was pickled comes back without a question for its implementation.
    masking_utils = importlib.import_module("transformers.masking_utils")
    modeling_utils.AttentionInterface.register(ATTENTION, _later("attention"))
    masking_utils.AttentionMaskInterface.register(ATTENTION, _later("padding_mask"))
    model_class = modeling_utils.PreTrainedModel
    correct = model_class.get_correct_attn_implementation

    @functools.wraps(correct)
    def checked(self: Any, requested_attention: str | None, *args: Any, **kwargs: Any) -> str:
        if requested_attention == ATTENTION:
            # Importing it registers it. Models that compute their attention themselves would take any name, and stay
            # as they are without a word.
            importlib.import_module("linformers.convert.interface").check_model(type(self))
            vars(self.config).setdefault(ATTENTION, {})  # saved with the model
        return correct(self, requested_attention, *args, **kwargs)

    model_class.get_correct_attn_implementation = checked
    finish = model_class.post_init

    @functools.wraps(finish)
    def numbered(self: Any, *args: Any, **kwargs: Any) -> None:
        finish(self, *args, **kwargs)
        if isinstance((vars(self.config).get(ATTENTION) or {}).get("projected_dim"), list | tuple):
            importlib.import_module("linformers.convert.interface").number_layers(self)

    model_class.post_init = numbered


def _restore_settings(configuration_utils: ModuleType) -> None:
    def settings(config: Any) -> dict[str, Any] | None:
        return vars(config).get(ATTENTION)

    def keep(config: Any, given: dict[str, Any]) -> None:
        vars(config)[ATTENTION] = given
        if config._attn_implementation is None:  # whoever asks for another gets that
            config._attn_implementation = ATTENTION

    # Without this package the key is one of many that transformers keeps and does not know: the model is softmax then.
    setattr(configuration_utils.PreTrainedConfig, ATTENTION, property(settings, keep))


def _let_mpnet(modeling_mpnet: ModuleType) -> None:
    importlib.import_module("linformers.convert.mpnet").take_implementation(modeling_mpnet)


class _AfterImport(MetaPathFinder):
    """Call a function with a module as soon as that module has been executed."""

    def __init__(self, callbacks: dict[str, Callable[[ModuleType], None]]):
        self.callbacks = callbacks

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        callback = self.callbacks.get(fullname)
        if callback is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_call(module: ModuleType) -> None:
                execute(module)
                callback(module)

            spec.loader.exec_module = execute_and_call
        return spec


def register_with_transformers() -> None:
    """Enter our names into transformers' tables, now or as soon as it is imported."""
    sys.modules.setdefault(f"transformers.models.{MODEL_TYPE}", sys.modules["linformers"])
    callbacks: dict[str, Callable[[ModuleType], None]] = {}
    for module_name, by_name, at_once in (
        (_CONFIGURATION_AUTO, _name_config, _name_config),
        (_MODELING_AUTO, _name_models, _register_models),
        (_CONFIGURATION_UTILS, _restore_settings, _restore_settings),
        (_MODELING_UTILS, _register_attention, _register_attention),
        (_PEFT, _name_targets, _name_targets),
        (_MPNET, _let_mpnet, _let_mpnet),
    ):
        if module_name in sys.modules:
            at_once(sys.modules[module_name])
        else:
            callbacks[module_name] = by_name
    if callbacks:
        sys.meta_path.insert(0, _AfterImport(callbacks))
