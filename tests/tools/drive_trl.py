"""TRL's own command on the exported file; runs in TRL's environment."""

import json
import subprocess
from pathlib import Path

from wrapped import adapter_of

settings = json.loads(Path("settings.json").read_text())
options = {
    "--dataset_name": str(Path(settings["data"]).parent),
    "--output_dir": settings["out"],
    "--max_steps": str(settings["steps"]),
    "--per_device_train_batch_size": "2",
    "--max_length": "64",
    "--report_to": "none",
    "--use_cpu": "true",
    "--bf16": "false",
    "--gradient_checkpointing": "false",
}
template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
Path("template.jinja").write_text(template)
subprocess.run(
    [
        "trl",
        "sft",
        "--config",
        settings["file"],
        "--chat_template_path",
        "template.jinja",
        *(x for pair in options.items() for x in pair),
    ],
    check=True,
)
Path("found.json").write_text(json.dumps(adapter_of(Path(settings["out"]))))
