"""Evaluation: data sets, runs that resume, grades, figures with intervals, comparisons."""
