"""The commands of ``bequest``, one module per family of them; ``cli.py`` puts them together.

``making`` starts and runs recipes, ``looking`` shows what there is, ``handling`` works on single directories, and
``terminal`` is how everything is printed.  Heavy libraries are imported inside the functions that need them.
"""
