"""What a person meets: the command line, contact pages and contact sheets.

Imports everything, is imported by nothing. No file here knows how an emotion acts on a model or
how a file is written: the verbs turn words into `Request`s, hand them to `pipelines.generate` and
show the `Take`s that come back.
"""
