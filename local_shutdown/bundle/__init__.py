"""A study in one file that a stranger can check: written by `write_bundle`, checked by `verify`.

A bundle is a BagIt bag (RFC 8493) in a zip: run and import directories, the page, what `compare`
says, and a dataset card. What of it is a claim, and what each claim is checked against, stands in
docs/bundle.md.
"""
