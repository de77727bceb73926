"""LLaMA-Factory's own command on the exported file, with its data keys added; runs in LLaMA-Factory's environment."""

import json
import os
import subprocess
from pathlib import Path

import yaml
from wrapped import adapter_of

settings = json.loads(Path("settings.json").read_text())
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
info = {"chat": {"file_name": settings["data"], "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}
Path("dataset_info.json").write_text(json.dumps(info))
run = {
    "stage": "sft",
    "do_train": True,
    "dataset": "chat",
    "dataset_dir": ".",
    "template": "default",
    "cutoff_len": 64,
    "max_samples": 20,
    "output_dir": settings["out"],
    "max_steps": settings["steps"],
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "use_cpu": True,
}
Path("train.yaml").write_text(Path(settings["file"]).read_text() + yaml.safe_dump(run))
# It imports torchaudio for sound, of which nothing is heard here, and of which there is no build for this torch.
Path("empty").mkdir()
Path("empty/torchaudio.py").touch()
subprocess.run(["llamafactory-cli", "train", "train.yaml"], check=True, env={**os.environ, "PYTHONPATH": "empty"})
Path("found.json").write_text(json.dumps(adapter_of(Path(settings["out"]))))
