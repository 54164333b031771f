"""The evidence bench: real corpora and models from the package registries, experiments, and their committed results.

Run it from a checkout as ``python -m lab``.  The lab imports bequest; bequest never imports the lab, and the lab is not
part of the installed package.  Nothing fetched is committed: the cache lies under ``lab.places.cache()``.
"""
