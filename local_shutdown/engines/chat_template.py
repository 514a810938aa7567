"""Whether a model can hold a conversation at all: a base model has no chat template."""

from __future__ import annotations

from pathlib import Path

from local_shutdown.engines.engine import Options
from local_shutdown.engines.families import chat_template
from local_shutdown.engines.flags import options as flags
from local_shutdown.engines.flags import split_engine_args
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError

# Files of tokenizers that write the chat format themselves.
OWN_FORMAT = ("tekken.json", "tokenizer.model.v*", "encoding_dsv*", "*.gguf")


def require_template(spec: ModelSpec, folder: Path, options: Options) -> None:
    """Refuse a model without a chat template, with what is the matter.

    Args:
        folder: of the weights; one that is not here yet is not looked at.

    Raises:
        CannotRunError: it has none, and nothing else gives it one.
    """
    given = {**flags(spec.server_args), **flags(split_engine_args(options.engine_args))}
    if spec.chat_template is not None or {"--chat-template", "--tokenizer-mode"} & set(given):
        return
    if not (folder / "config.json").is_file():
        return
    if any(True for pattern in OWN_FORMAT for _ in folder.glob(pattern)):
        return
    if not chat_template(folder):
        raise CannotRunError(
            f"{spec.name} has no chat template: it is a base model, which continues text and was "
            "not trained to hold a conversation or to call tools",
            "take its instruct or chat variant; or give a template of your own: "
            "--engine vllm --engine-arg '--chat-template FILE'",
        )
