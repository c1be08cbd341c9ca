"""LLM.int8() (Dettmers et al. 2022): method, outlier features, planting."""
