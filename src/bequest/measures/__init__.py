"""Measuring generations: perplexity per domain, task scores, and intervals that say when nothing was seen."""
