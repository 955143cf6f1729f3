"""Figures: records in, plotly figures or pictures out; nothing is shown or written here."""

from dpqlab.viz.ablation import ablation
from dpqlab.viz.images import sheet
from dpqlab.viz.ledger import ledger_bars
from dpqlab.viz.page import render
from dpqlab.viz.rate_distortion import rate_distortion
from dpqlab.viz.roofline import roofline
from dpqlab.viz.theme import themed

__all__ = ["ablation", "ledger_bars", "rate_distortion", "render", "roofline", "sheet", "themed"]
