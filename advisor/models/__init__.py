"""A loaded model: its modules, its rows as tokens, a forward pass, and what PEFT makes of it."""
