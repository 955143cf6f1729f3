"""What the views show, computed or read from records: codewords, pruning, codecs, live calibration.

A study is a pure function or a generator of frozen records over the layers below; a recorded study
has a validated loader beside it. Figures of studies are in ``dpqlab.viz``, knobs in
``dpqlab.widgets``.
"""
