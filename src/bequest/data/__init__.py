"""Text in, batches out: corpora, packing, masking, mixtures, tokenizer training, labelled tasks, the demo text.

The way of a corpus: ``specs`` (what the recipe says) -> ``corpora`` (streams of documents) -> ``packing`` (memory-
mapped blocks with a held-out side) -> ``mixtures`` (token-exact shares, order) -> ``masking`` (batches with targets).
"""
