"""LLM.int8() (Dettmers et al. 2022): method, layers, outlier features, planting."""
