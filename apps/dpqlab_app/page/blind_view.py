"""The blind test as HTML: two pictures that give nothing away, the score, the votes as a file."""

from __future__ import annotations

from dpqlab_app.drawing.catalogue import Model
from dpqlab_app.page.blind_pool import MOST_VOTES, DrawnPair, Pool, Visit
from dpqlab_app.page.blind_test import CHANCE, SIDES, Score, Side, Vote, score, to_csv, verdict
from dpqlab_app.page.markup import image_uri, text, text_uri

INTRO = (
    "Two pictures from the same noise: one drawn with full precision, one with the compressed "
    "model. Which is full precision? Press A or B, on the page or on the keyboard. Guessing is "
    "right half of the time."
)
STAYS = "Votes stay here: nothing is sent or stored, and they are gone when the page is closed."


def question_html(visit: Visit, pool: Pool, model: Model) -> str:
    """Show the pair on the screen, or say that it is on its way."""
    pair = None if visit.trial is None else pool.get(visit.trial.pair)
    if visit.full:
        return f'<p class="dq-empty">That makes {MOST_VOTES} votes: enough for anybody.</p>'
    if visit.trial is None or pair is None:
        return '<p class="dq-empty">The next pair is being drawn …</p>'
    figures = "".join(_figure(side, pair, visit.trial.full, model) for side in SIDES)
    name = text(visit.trial.class_name)
    return (
        f'<div class="dq-question" data-pair="{pair.number}"><p>Which <strong>{name}</strong> was '
        f'drawn with full precision?</p><div class="dq-pair">{figures}</div></div>'
    )


def answer_html(visit: Visit, pool: Pool, model: Model) -> str:
    """Say whether the last vote was right, and show that pair again with its names."""
    vote = visit.last
    if vote is None:
        return ""
    right = "Right" if vote.right else "Not this time"
    words = f"{right}: {vote.trial.full} was full precision."
    pair = pool.get(vote.trial.pair)
    figures = "" if pair is None else "".join(_named(side, vote, pair, model) for side in SIDES)
    state = "yes" if vote.right else "no"
    return (
        f'<div class="dq-answer dq-{state}"><p role="status">{text(words)}</p>'
        f'<div class="dq-thumbs">{figures}</div></div>'
    )


def score_html(visit: Visit, model: Model) -> str:
    """Show the score against this version with its interval, what it means, and the file."""
    found = score(visit.votes, visit.version)
    title = model.version(visit.version).title
    count = f"{found.right} of {found.total}" if found.total else "no votes yet"
    return (
        f'<section class="dq-score"><h3>Against {text(title)}: {count}</h3>{_scale(found)}'
        f"<p>{text(verdict(found))}</p>{_file(visit)}<p><small>{text(STAYS)}</small></p></section>"
    )


def _figure(side: Side, pair: DrawnPair, full: Side, model: Model) -> str:
    image = pair.full if side == full else pair.compressed
    return (
        f'<figure><img src="{image_uri(image)}" alt="Picture {side}" width="{model.side}" '
        f'height="{model.side}"><figcaption>{side}</figcaption></figure>'
    )


def _named(side: Side, vote: Vote, pair: DrawnPair, model: Model) -> str:
    is_full = side == vote.trial.full
    version = model.full if is_full else model.version(vote.trial.version)
    image = pair.full if is_full else pair.compressed
    said = " · your choice" if side == vote.said else ""
    name = text(version.title)
    return (
        f'<figure><img src="{image_uri(image)}" alt="{side} was {name}" width="{model.side}" '
        f'height="{model.side}"><figcaption>{side}: {name}{said}</figcaption></figure>'
    )


def _scale(found: Score) -> str:
    """A line from 0 to 100 % with chance, the interval, and the share."""
    if not found.total:
        return ""
    low, high, share = (100 * value for value in (found.low, found.high, found.share))
    return (
        f'<div class="dq-scale" role="img" aria-label="{text(verdict(found))}">'
        f'<i class="dq-interval" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<i class="dq-chance" style="left:{100 * CHANCE:.0f}%"></i>'
        f'<i class="dq-share" style="left:{share:.1f}%"></i></div>'
        '<div class="dq-ends" aria-hidden="true"><span>0 %</span><span>chance</span>'
        "<span>100 % right</span></div>"
    )


def _file(visit: Visit) -> str:
    if not visit.votes:
        return ""
    uri = text_uri(to_csv(visit.votes), "text/csv")
    link = f'<a href="{uri}" download="blind-test.csv">Download votes (CSV)</a>'
    return f'<p class="dq-tools">{link}</p>'
