"""Figures: records in, plotly figures or pictures out; nothing is shown or written here.

Import a figure's module: this one imports none, so that sheets of images need no plotly.
"""
