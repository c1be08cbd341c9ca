"""Checks of the numbers: do today's runs agree with the committed ones?"""

from survey_lib.publish import layout
from survey_lib.publish.findings import Finding


def check_numbers() -> list[Finding]:
    """Compare the runs that the chapters' quick profile made here with their recorded twins.

    Each build is so a check that the committed numbers reproduce; age is no finding. What another
    processor does to the same code is told and is none either.
    """
    # late: the experiments import torch
    from survey_lib.experiments import EXPERIMENTS, judging, runner

    found = []
    for slug in layout.slugs():
        if slug in EXPERIMENTS:
            fresh, recorded = runner.finished(slug, "quick"), judging.study(slug)
            for line in judging.differences(slug, fresh, recorded):
                remedy = "find out what changed, or run the study anew"
                found.append(Finding(f"results/study/{slug}.jsonl", line, remedy))
            if drift := judging.drifted(slug, fresh, recorded):
                print(
                    f"{slug}: {len(drift)} numbers are off by more than the card allows, made by "
                    f"the same code on another processor; the first: {drift[0]}"
                )
    return found


def check_studies() -> list[Finding]:
    """Find studies that today's code vouches for neither by its digest nor by an attestation.

    Age is no finding: a study whose code has changed passes once a sample of its cells was run
    again and agreed.
    """
    from survey_lib.experiments import EXPERIMENTS, judging

    return [
        Finding(
            f"results/study/{slug}.jsonl",
            "is neither current nor attested under today's code",
            f"run survey verify {slug} --write",
        )
        for slug in EXPERIMENTS
        if judging.study(slug) and judging.state(slug).word == judging.UNATTESTED
    ]
