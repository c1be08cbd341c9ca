"""LLM.int8(): what is measured (cells) and what is asked (study)."""
