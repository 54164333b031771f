"""docs/evidence.md: what the committed rows show, rendered byte for byte from the experiment files and the CSVs.

No clock, no machine, no network: the same files give the same page.  Try it: ``print(render(places.checkout()))``.
"""

from lab.evidence.page import check, render, write

__all__ = ["check", "render", "write"]
