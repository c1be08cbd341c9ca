"""Structured pruning adapters (Hedegaard et al. 2022): SPLoRA, SPPaRA, and fine-pruning."""
