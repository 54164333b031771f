"""Experiments: an ordinary recipe, a grid around it, and one row per cell in a CSV that is committed.

``schema`` what a file may say · ``reading`` the file, checked · ``resolving`` its ``${...}`` · ``cells`` the grid ·
``rows`` the CSV · ``running`` the whole · ``bench`` its cells one after the other · ``one_cell`` and ``harvesting`` a
cell, and its row · ``tuning`` which value a method runs with · ``pairing`` whether methods saw the same batches ·
``made_up`` the smoke scale's text, tasks and models · ``revisions`` which code made a row · ``outcomes`` the numbers
taken from a row · ``comparing`` methods compared.
"""
