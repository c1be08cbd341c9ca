"""LLM.int8(): eight-bit products with the outlier features taken out."""
