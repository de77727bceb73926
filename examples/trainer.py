"""From a recommendation to a trained adapter with transformers' Trainer.

    python examples/trainer.py [MODEL DATA] [OUT]

MODEL: a folder or hub id. DATA: a JSON-lines file with the columns text and label. Without both: the demo's. In OUT (default:
trained) lie the recommendation and the adapter afterwards.
"""

import sys

from datasets import load_dataset
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

from advisor import recommend


def main(model_name: str, data: str, out: str) -> list[dict[str, float]]:
    recommendation = recommend(model_name, data, out=f"{out}/recommendation")
    print(recommendation)

    rows = load_dataset("json", data_files=data, split="train").class_encode_column("label")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    longest = min(128, tokenizer.model_max_length)
    rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=longest), batched=True)
    parts = rows.train_test_split(0.1, seed=0, stratify_by_column="label")

    set_seed(0)  # of the new head and of LoRA's A
    model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=rows.features["label"].num_classes)
    model = get_peft_model(model, recommendation.lora_config())
    model.print_trainable_parameters()
    arguments = TrainingArguments(  # the recipe that the prediction is for
        output_dir=f"{out}/checkpoints",
        num_train_epochs=6,
        learning_rate=1e-3,
        per_device_train_batch_size=32,
        weight_decay=0.0,
        warmup_steps=0.06,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=10,
        report_to="none",
    )
    trainer = Trainer(model, arguments, train_dataset=parts["train"], eval_dataset=parts["test"], processing_class=tokenizer)
    trainer.train()
    trainer.save_model(f"{out}/adapter")
    return trainer.state.log_history


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) < 2:
        from advisor.probe_cache import demo_inputs

        arguments = [*demo_inputs(), *arguments]
    main(*arguments[:2], arguments[2] if len(arguments) > 2 else "trained")
