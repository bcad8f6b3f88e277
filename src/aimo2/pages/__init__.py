"""Self-contained pages: one HTML file with everything in it, safe whatever a model wrote.

No scripts and nothing fetched: the page's own policy (CSP) forbids both. Knows no files.
"""
