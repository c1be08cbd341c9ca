"""Records of runs, intervals over seeds, verdicts on claims."""
