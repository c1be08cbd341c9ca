"""The runs behind an open page: a slice run here and now, and the recorded study."""

from survey_lib.evidence.reading import study
from survey_lib.evidence.records import Record
from survey_lib.experiments import judging, runner
from survey_lib.show import page


def live_and_recorded() -> tuple[list[Record], list[Record]]:
    """Run the open page's profile, read the recorded study, and say how the two compare.

    Prints each difference between a run of the quick profile and its recorded twin, then what was
    run.

    Returns:
        Records made here, and those of the study (none where the study was never run).

    Raises:
        RuntimeError: no page is open, or a run failed.
    """
    slug, profile = page.current_slug(), page.CONTEXT.profile
    live, recorded = runner.run(slug, profile), study(slug)
    if failed := [record.error for record in live if record.status != "done"]:
        raise RuntimeError(f"{len(failed)} runs of {slug} failed; the first:\n{failed[0]}")
    if recorded and profile == "quick":
        for line in judging.differences(slug, live, recorded):
            print(line)
        if drift := judging.drifted(slug, live, recorded):
            print(f"{len(drift)} numbers differ by more than the card allows: another processor")
    seconds = sum(record.provenance["seconds"] for record in live)
    print(
        f"{len(live)} runs, {seconds:.0f} core-seconds; {len(recorded)} recorded runs beside them"
    )
    return live, recorded
