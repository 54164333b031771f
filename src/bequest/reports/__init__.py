"""report.html of a run and the model card of a generation, made from the files that lie in their directories."""
