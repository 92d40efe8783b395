"""`evolve report`: write a finished run's report again, from its ledger."""

from __future__ import annotations

from pathlib import Path

from evolve.atomic import write_text
from evolve.errors import RunError
from evolve.preparation.belonging import storage_url
from evolve.preparation.guard import load_run
from evolve.report.facts import Facts
from evolve.report.figures import recorded_figures
from evolve.report.markdown import headline, report_text
from evolve.storage.ledger import Ledger


def report(folder: Path) -> None:
    """Write report.md again and print its first line. Raises RunError where the run has not ended."""
    config = load_run(folder)
    ledger = Ledger(storage_url(config), config.name, must_exist=True)
    verdict, made = ledger.attribute("verdict"), ledger.attribute("report")
    if verdict is None or made is None:
        raise RunError(f"{folder}: the run has not ended yet; `evolve run {folder / 'search.yaml'}` goes on with it")
    try:
        recipe = (folder / "best.yaml").read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{folder / 'best.yaml'}: cannot be read ({error.strerror or error}); "
            f"`evolve run {folder / 'search.yaml'}` writes it again"
        ) from None
    figures = recorded_figures(ledger, config)
    facts = Facts(
        config=config,
        figures=figures,
        trials=ledger.trials(),
        verdict=verdict,
        recipe=recipe,
        openings=ledger.events("report opened"),
        documents=made["documents"],
        benchmarks=made["benchmarks"],
        dtype=made["dtype"],
        reserved=made["reserved"],
        opening=made.get("opening", ""),
    )
    write_text(folder / "report.md", report_text(facts))
    print(f"{headline(verdict, figures)}\nwrote {folder / 'report.md'}")
