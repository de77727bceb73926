"""Real LoRA runs, alone and many at a time."""
