"""A study: what will be done, written down and frozen before the first episode.

`schema` reads study.yaml, `plan` resolves it into what does not depend on the machine, `frozen`
writes that down once and lists what is changed later, `parts` makes the runs of it.
"""
