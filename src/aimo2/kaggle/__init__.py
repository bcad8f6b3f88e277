"""The competition's wire protocol, both of its ends, and the bundle for an offline notebook.

A gateway owns the problems and calls; an inference server answers. Either end here can face the
real other one. Nothing of it knows how a problem is solved: see `predict.Predictor`.
"""
