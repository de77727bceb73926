"""axolotl's own validation and loading of LoRA on the exported file, with its data keys added; runs in axolotl's environment."""

import json
from pathlib import Path

import yaml
from axolotl.loaders.adapter import load_lora
from axolotl.utils.config import normalize_config, validate_config
from axolotl.utils.dict import DictDefault
from transformers import AutoModelForCausalLM
from wrapped import layers_of

settings = json.loads(Path("settings.json").read_text())
run = {
    "datasets": [{"path": settings["data"], "type": "chat_template"}],
    "sequence_len": 64,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": settings["steps"],
    "num_epochs": 1,
    "learning_rate": 1e-3,
    "optimizer": "adamw_torch",
    "output_dir": settings["out"],
}
config = validate_config(DictDefault({**yaml.safe_load(Path(settings["file"]).read_text()), **run}))
normalize_config(config)
model, _ = load_lora(AutoModelForCausalLM.from_pretrained(config.base_model), config)
Path("found.json").write_text(json.dumps(layers_of(model)))
