"""LoRA layer advisor: which modules should LoRA adapt, on this model and this data?

Importing this package loads neither torch nor transformers.
"""

__version__ = "0.1.0"
