"""ThiNet: ``method`` is the paper, ``variants`` what it is compared with."""
