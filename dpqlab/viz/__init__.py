"""Figures: records in, plotly figures or pictures out; nothing is shown or written here."""
