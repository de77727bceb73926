"""A model's config: which class of transformers loads it, for which task, and whether it can be used at all."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import transformers

from advisor.core.errors import BadInput, loading
from advisor.core.recipe import HEADLESS, LANGUAGE_TASKS
from advisor.core.tasks import EMBEDDING, KTO, PREFERENCE, TASKS
from advisor.data.hub import hub_hint
from advisor.models.checkpoint import check_fields, check_folder, read_raw_config, tensor_shapes

BITSANDBYTES = re.compile(r"\.(SCB|weight\.quant_state\.bitsandbytes__\w+|weight\.absmax)$")  # stored beside each weight
IMAGE_CLASS = "AutoModelForImageClassification"
AUTO_CLASSES = {  # the first one that knows the config's family
    **{name: task.loaders for name, task in TASKS.items()},
    "images-and-text": ("AutoModelForImageTextToText",),  # what a language task loads of a family that reads both
}
NOT_TEXT = {  # by what transformers calls a model's input
    **dict.fromkeys(("input_values", "input_features", "audio_mel"), "sounds"),
    **{"pixel_values": "images", "pixel_values_videos": "videos", "past_values": "series of numbers"},
}
INSTEAD = {
    **dict.fromkeys((PREFERENCE, KTO), "Use a causal language model."),
    EMBEDDING: "Use an encoder or a decoder.",
}  # of a model that does not do a task
BOTH = "images-and-text"
# How checkpoints are stored that transformers makes plain numbers of on loading, and the package that it needs for it.
DEQUANTISED = {"fp8": None, "mxfp8": None, "mxfp4": None, "compressed-tensors": "compressed_tensors"}


def load_config(name: str, options: dict[str, Any]) -> Any:
    """The config of a model folder or hub id; ``options`` are those of ``AutoConfig.from_pretrained``.

    Raises:
        BadInput: there is none, or it cannot be used; the message names file and field.
    """
    path = Path(name)
    there = os.path.exists(name)
    if not there and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise BadInput(f"{name}: no such folder.", "Give a model folder or a hub id such as org/name.")
    if there:
        check_folder(path)
        read_raw_config(path)
    with loading(f"{name}: its config cannot be read", "Check the folder's config.json." if there else hub_hint), quiet():
        if not there:
            pinned = {key: value for key, value in options.items() if key == "revision"}
            check_fields(transformers.PreTrainedConfig.get_config_dict(name, **pinned)[0], f"{name}: config.json")
        config = transformers.AutoConfig.from_pretrained(name, **options)
    _check_parts(config, name)
    return config


def _check_parts(config: Any, name: str) -> None:
    """Raises:
    BadInput: config.json describes a part, such as ``text_config``, that models of its family do not have.
    """
    if not type(config).__module__.startswith("transformers."):
        return
    for part in ("text_config", "vision_config", "audio_config"):
        if isinstance(getattr(config, part, None), dict):  # a family that has it makes a config of it
            raise BadInput(
                f"{name}: config.json: {part} is there, which models of the family {config.model_type} do not have.",
                "Correct model_type, or remove the field.",
            )


def only_task(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str | None:
    """``classification`` for a model of images, which PEFT has no ``task_type`` for; None where there is a choice.

    Raises:
        BadInput: no usable config at ``name``.
    """
    config = load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    return "classification" if of_images(config) else None


def of_images(config: Any) -> bool:
    """Whether it is a model that classifies images."""
    return auto_class(config, "classification") is getattr(transformers, IMAGE_CLASS)


def language_task_of(config: Any) -> str:
    """What a model is trained on that predicts tokens: ``seq2seq`` for an encoder-decoder, else ``causal-lm``."""
    return "seq2seq" if config.is_encoder_decoder else "causal-lm"


def auto_class(config: Any, task: str) -> Any:
    """The first auto class of the task that knows the config's family; of none (a family's own code), the first."""
    classes = [getattr(transformers, name) for name in AUTO_CLASSES[task]]
    return next((c for c in classes if type(config) in c._model_mapping), classes[0])


def sees(config: Any) -> bool:
    """Whether trainers load it as a model of images and text."""
    both, text = class_of(config, BOTH), class_of(config, "causal-lm")
    if both is None or config.is_encoder_decoder:
        return False
    return text in (None, both) or text not in (config.architectures or ())


def loaded_as(config: Any, task: str) -> str:
    """The key of ``AUTO_CLASSES`` that a model is loaded by for a task."""
    return BOTH if task == "causal-lm" and sees(config) else task


def trained_as(name: str, task: str, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[str, ...]:
    """Keys of ``AUTO_CLASSES`` that trainers may load for ``task``, the likeliest first; two have other names of modules.

    Trainers load the class that the config names. Of a model of images and text this is not the class for text alone,
    which scripts may load.

    Raises:
        BadInput: no usable config at ``name``.
    """
    config = load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    if task != "causal-lm" or class_of(config, BOTH) is None:
        return (task,)
    if class_of(config, task) in (None, class_of(config, BOTH)):
        return (BOTH,)
    return (BOTH, task) if sees(config) else (task, BOTH)


def task_of_class(name: str, class_name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str | None:
    """The key of ``AUTO_CLASSES`` that gives a class of transformers for the model at ``name``; None: none does."""
    config = load_config(name, {"trust_remote_code": trust_remote_code, "revision": revision})
    return next((key for key in AUTO_CLASSES if class_of(config, key) == class_name), None)


def other_class(config: Any, task: str) -> list[str]:
    """A sentence on a model of images and text that is taken as one of text alone; empty of any other."""
    both, own = (class_of(config, key) for key in (BOTH, task))
    if task != "causal-lm" or sees(config) or both in (None, own):
        return []
    return [
        f"Its config also stands for {both}, of images and text, which trainers such as TRL and LLaMA-Factory load and whose "
        f"modules may have other names than those of {own}: train with {own}, or check the file with `advisor verify`."
    ]


def class_of(config: Any, key: str) -> str | None:
    """The class that an auto class gives for a config."""
    auto = auto_class(config, key)
    return auto._model_mapping[type(config)].__name__ if type(config) in auto._model_mapping else None


def check_class(config: Any, task: str, name: str) -> None:
    """Raises:
    BadInput: transformers has no such model of the family, or it reads images beside text.
    """
    mapped = auto_class(config, loaded_as(config, task))
    if type(config) not in mapped._model_mapping:
        if mapped.__name__ in (getattr(config, "auto_map", None) or {}):
            return  # the family's own code
        images = _reads_more_than_text(config)
        found = f"It reads {images} beside text, which is not covered." if images else f"transformers has no {task} model of it."
        hint = "Use a text-only model, or check the task."
        if class_of(config, BOTH) and task in ("classification", "regression"):
            found = f"It reads images and writes text, so {task} is not its task."
            hint = "Learn the labels as texts: --task causal-lm --label-column LABEL."
        raise BadInput(f"{name}: a model of the family {config.model_type}. {found}", hint)
    if loaded_as(config, task) == BOTH:
        return
    model = mapped._model_mapping[type(config)]
    more = None if of_images(config) or model.config_class is not type(config) else _reads_more_than_text(config)
    if more:
        raise BadInput(
            f"{name}: {model.__name__} reads {more} beside text, which is not covered.",
            "Use a text-only model of the family, or save its language model alone.",
        )


def check_task(config: Any, name: str, task: str) -> None:
    """Raises:
    BadInput: the model does not do the task, its class or its weights cannot be read, or its folder holds an adapter too.
    """
    if what := _not_text(config):
        raise BadInput(
            f"{name}: a model of the family {config.model_type}. It reads {what}, for which there is no task here.",
            "Use a model of text, one of images that sorts them into classes, or one of images and text.",
        )
    other = TASKS[task].task_type != TASKS[language_task_of(config)].task_type
    if other and (task in LANGUAGE_TASKS or config.is_encoder_decoder):
        kind = "an encoder-decoder" if config.is_encoder_decoder else "no encoder-decoder"
        labels = "" if task in LANGUAGE_TASKS else " with --label-column to learn the labels as texts, or another model"
        raise BadInput(
            f"{name}: {config.model_type} is {kind}, so {task} is not its task.",
            INSTEAD.get(task, f"Use --task {language_task_of(config)}{labels}."),
        )
    if of_images(config) and task in HEADLESS:
        raise BadInput(f"{name}: {config.model_type} reads images, so {task} is not its task.", "Use --task classification.")
    check_class(config, task, name)
    if (Path(name) / "adapter_config.json").exists():
        raise BadInput(
            f"{name}: it also holds adapter_config.json, and transformers would apply that adapter to the model.",
            "If it is merged already, move the adapter's files elsewhere; if not, merge it first.",
        )


def check_trained_head(config: Any, name: str, num_labels: int) -> None:
    """Raises:
    BadInput: the checkpoint has a trained head, and for another number of labels.
    """
    heads = ("ForSequenceClassification", "ForImageClassification", "ForTokenClassification", "ForQuestionAnswering")
    trained = any(a.endswith(heads) for a in config.architectures or ())
    if trained and config.num_labels != num_labels:
        raise BadInput(
            f"{name}: its trained head has {config.num_labels} outputs, the data needs {num_labels}.",
            "Use the base model, or data with the labels that head was trained for.",
        )


def _not_text(config: Any) -> str | None:
    """What a model reads that reads neither texts nor images to be classified; None of any other."""
    if of_images(config) or class_of(config, BOTH) is not None or type(config) not in transformers.AutoModel._model_mapping:
        return None
    base: Any = transformers.AutoModel._model_mapping[type(config)]  # of some families several
    return NOT_TEXT.get((base[0] if isinstance(base, tuple) else base).main_input_name)


def _reads_more_than_text(config: Any) -> str | None:
    kinds = {"images": ("vision_config", "vision_tower", "visual", "image_token_id"), "sounds": ("audio_config",)}
    return next((kind for kind, fields in kinds.items() if any(getattr(config, field, None) for field in fields)), None)


def plain_weights(config: Any, name: str, quantised: str | None) -> str | None:
    """How the weights are stored where that is in few bits by another library than bitsandbytes; ``config`` then has transformers
    make plain numbers of them on loading.

    Args:
        quantised: how the user wants them quantised on loading.

    Raises:
        BadInput: this is not possible, or the user wants them quantised once more.
    """
    stored = [found for c in (config, config.get_text_config()) if (found := getattr(c, "quantization_config", None)) is not None]
    if not stored:
        return None
    method = stored[0].get("quant_method") if isinstance(stored[0], Mapping) else getattr(stored[0], "quant_method", None)
    method = str(getattr(method, "value", method) or "an unnamed method")
    if method.startswith("bitsandbytes"):
        if Path(name).exists() and not any(BITSANDBYTES.search(tensor) for tensor in tensor_shapes(Path(name))):
            raise BadInput(
                f"{name}: config.json says that bitsandbytes quantised the weights, but the *.safetensors files hold plain ones.",
                "Remove quantization_config from config.json; --load-in-4bit or --load-in-8bit quantises them.",
            )
        return None
    what = f"{name}: its weights are stored quantised ({method})"
    if method not in DEQUANTISED:
        raise BadInput(
            f"{what}, which is not read.",
            "Use the model it was made from: its modules have the same names, so what is found there can be used here.",
        )
    package = DEQUANTISED[method]
    if package is not None and importlib.util.find_spec(package) is None:
        raise BadInput(f"{what}, and {package} is not installed, which reads them.", f"pip install {package.replace('_', '-')}")
    if quantised is not None:
        option = "--load-in-4bit" if quantised == "4bit" else "--load-in-8bit"
        raise BadInput(f"{what}, and {option} would quantise them once more.", "Leave it out.")
    for found in stored:
        if isinstance(found, dict):
            found["dequantize"] = True
        else:
            found.dequantize = True
    return method


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' load report and progress bars: the advisor says what matters itself."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    dispatch = getLogger("accelerate.big_modeling")  # says where weights went
    logging.set_verbosity(CRITICAL)  # what it logs as an error, with the whole config, it raises too
    dispatch.setLevel("ERROR")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        dispatch.setLevel("NOTSET")
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
