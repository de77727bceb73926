"""From a recommendation to a trained adapter with TRL's SFTTrainer.

    python examples/sft.py MODEL DATA [OUT]

MODEL: folder or hub id of a causal language model. DATA: a JSON-lines file that SFTTrainer takes: prompt and completion, or
messages. In OUT (default: trained) lie the recommendation and the adapter afterwards.
"""

import sys

from datasets import load_dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from advisor import recommend


def main(model_name: str, data: str, out: str) -> list[dict[str, float]]:
    recommendation = recommend(model_name, data, out=f"{out}/recommendation")
    print(recommendation)

    parts = load_dataset("json", data_files=data, split="train").train_test_split(0.1, seed=0)
    set_seed(0)
    arguments = SFTConfig(  # the recipe that the prediction is for
        output_dir=f"{out}/checkpoints",
        num_train_epochs=3,
        learning_rate=2e-4,
        per_device_train_batch_size=16,
        weight_decay=0.0,
        warmup_steps=0.06,
        max_length=512,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        bf16=False,
    )
    trainer = SFTTrainer(
        model_name,
        arguments,
        train_dataset=parts["train"],
        eval_dataset=parts["test"],
        peft_config=recommendation.lora_config(),
    )
    trainer.train()
    trainer.save_model(f"{out}/adapter")
    return trainer.state.log_history


if __name__ == "__main__":
    main(*sys.argv[1:3], sys.argv[3] if len(sys.argv) > 3 else "trained")
