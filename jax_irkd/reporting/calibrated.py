"""What calibration changes, on a run's page."""

from jax_irkd.reporting.sections import Section, table_section
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.results import Run

TITLE = "What the probabilities are worth"
HEADERS = ("on the test clips", "before", "after")
FIGURES = ("ece_before", "ece_after", "nll_before", "nll_after")


def section(run: Run) -> list[Section]:
    """The figures before and after; none for a run without validation subjects."""
    found = run.results.get("calibration") or {}
    if not all(name in found for name in (*FIGURES, "temperature", "clips", "rejected")):
        return []
    rows = [
        ["calibration error (ECE)", percent(found["ece_before"]), percent(found["ece_after"])],
        ["log likelihood (NLL)", f"{found['nll_before']:.3f}", f"{found['nll_after']:.3f}"],
    ]
    lead = (
        f"Logits are divided by {found['temperature']:.3g}, the temperature at which the labels of "
        f"{found['clips']} clips of validation subjects are likeliest; no class changes its place. "
        f"An answer counts as recognised above thresholds that reject {percent(found['rejected'])} "
        "of the true actions among them; of the true actions of the test clips "
        f"{percent(found['rejected_test'])} are not recognised."
    )
    return [table_section(TITLE, HEADERS, rows, lead)]
