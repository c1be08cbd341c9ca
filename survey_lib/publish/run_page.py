"""The page that tells how the book was made: seconds, profile, versions, machine."""

from collections.abc import Mapping

from survey_lib.publish import layout
from survey_lib.publish.cache_key import read_entry
from survey_lib.show.claims import paper_name
from survey_lib.show.markup import markdown


def run_page() -> str:
    """How the pages were made: seconds, profile, versions, machine."""
    entries = {slug: read_entry(slug) for slug in layout.slugs()}
    lines, machines, versions = [], {}, {}
    for slug, entry in entries.items():
        chapter = f"[{markdown(paper_name(slug))}](../notebooks/{slug}.ipynb)"
        if entry is None:
            lines.append(f"| {chapter} | not executed | | | |")
            continue
        lines.append(
            f"| {chapter} | {entry['profile']} "
            f"| {entry['seconds']:.0f} | {entry['core_seconds']:.0f} | {entry['finished']} |"
        )
        machine = entry["machine"]
        named = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
            f"Python {machine['python']}"
        )
        machines.setdefault(named, []).append(slug)
        text = ", ".join(f"{name} {number}" for name, number in entry["versions"].items() if number)
        versions.setdefault(text, []).append(slug)
    done = [entry for entry in entries.values() if entry]
    total = sum(entry["core_seconds"] for entry in done)
    table = (
        "| Chapter | Profile | Seconds | Core-seconds | Finished |\n"
        "| --- | --- | ---: | ---: | --- |\n" + "\n".join(lines)
    )
    return (
        "# How this page was made\n\n"
        "Each chapter is a notebook that runs from its first cell to its last before the book is "
        "rendered. Nothing on a page is pasted in.\n\n"
        f"{table}\n\n"
        f"All chapters together take {total:.0f} core-seconds: seconds times the cores at work. "
        "A chapter whose code, data and versions are unchanged is not run again; its line then "
        "tells of its last run.\n\n"
        "## Machine\n\n" + _listed(machines, len(done)) + "\n\n"
        "## Versions\n\n" + _listed(versions, len(done)) + "\n"
    )


def _listed(groups: Mapping[str, list[str]], chapters: int) -> str:
    if not groups:
        return "Nothing was executed yet."
    return "\n".join(
        f"- {text}" + ("" if len(slugs) == chapters else f" ({', '.join(slugs)})")
        for text, slugs in groups.items()
    )
