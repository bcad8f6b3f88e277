"""The folder that an offline notebook needs: wheels, model, settings, notebook and checksums.

`build` makes it, `own_wheel` and `wheels` fill its wheels, `notebook` writes the notebook, and
`dry_run` executes that here. Knows no terminal.
"""
