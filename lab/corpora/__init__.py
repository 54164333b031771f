"""One converter per source: files unpacked from a registry's package -> documents and labelled examples.

Each module has one public function, ``convert(root) -> Converted``: pure, deterministic, without network.  It reads the
members that ``lab.kit.packages.SOURCES`` lists, below ``root``, and never runs what it finds there.
"""
