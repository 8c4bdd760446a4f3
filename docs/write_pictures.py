"""Writes docs/images/NAME.svg from each text docs/pictures/NAME.txt: `make docs` calls it.

The first line of a text is its title, the second its kind. `lanes A | B` begins a sequence from top to bottom:

    A > B words            a message from A to B;  A < B words  is the answer, from B to A
    note A words           what A does
    crash A words          A ends here
    record words           what the store's record is from here on
    gap words              time passes

`states` begins a picture of boxes and arrows, at places that the text gives:

    box NAME x y title | words
    arrow FROM TO words    a straight arrow
    back FROM TO y words   an arrow that goes around, at the height y;  under FROM TO y words  the same, from below
    loop NAME words        what keeps a box as it is, in lines that `; ` parts
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parent

STYLE = """
  .paper { fill: #ffffff; stroke: #d0d7de } .ink { fill: #1f2328 } .soft { fill: #59636e }
  .line { stroke: #59636e; fill: none } .lane { stroke: #d0d7de } .box { fill: #f6f8fa; stroke: #818b98 }
  .note { fill: #ddf4ff; stroke: #54aeff } .bad { fill: #ffebe9; stroke: #cf222e }
  .cross { stroke: #cf222e; stroke-width: 3 }
  .record { fill: #fff8c5; stroke: #d4a72c } .tip { fill: #59636e }
  text { font: 13px system-ui, sans-serif } .title { font-size: 16px; font-weight: 600 } .name { font-weight: 600 }
  .over { paint-order: stroke; stroke: #ffffff; stroke-width: 5px }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #151b23; stroke: #3d444d } .ink { fill: #f0f6fc } .soft { fill: #b3bac3 }
    .line { stroke: #b3bac3 } .lane { stroke: #3d444d } .box { fill: #212830; stroke: #656c76 }
    .over { stroke: #151b23 }
    .note { fill: #10233c; stroke: #388bfd } .bad { fill: #3c1618; stroke: #f85149 } .cross { stroke: #f85149 }
    .record { fill: #332a0c; stroke: #9e6a03 } .tip { fill: #b3bac3 }
  }
"""
LETTER = 7.0  # the width of a letter of 13 px, on the safe side


def picture(text: str) -> str:
    """The SVG of a text."""
    title, kind, *lines = [line for line in text.splitlines() if line.strip()]
    parts, width, height = states(lines) if kind == "states" else sequence(kind.removeprefix("lanes "), lines)
    said = "; ".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img">\n<title>{escape(title)}</title>\n<desc>{escape(said)}</desc>\n'
        f"<style>{STYLE}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>\n'
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="6"/>\n'
        + _words(width / 2, 28, title, "ink title")
        + "".join(parts)
        + "</svg>\n"
    )


def _words(x: float, y: float, words: str, style: str = "ink", anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>\n'


def _arrow(path: str, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path class="line" d="{path}" marker-end="url(#tip)"{dashes}/>\n'


def _box(x: float, y: float, words: str, style: str) -> str:
    width = len(words) * LETTER + 16
    return (
        f'<rect class="{style}" x="{x - width / 2:g}" y="{y - 13:g}" width="{width:g}" height="24" rx="4"/>\n'
        + _words(x, y + 4, words)
    )


def sequence(names: str, lines: list[str]) -> tuple[list[str], float, float]:
    """The parts of a sequence, its width and its height."""
    lanes = [name.strip() for name in names.split("|")]
    names_by_length = "|".join(re.escape(name) for name in sorted(lanes, key=len, reverse=True))
    message_of = re.compile(rf"({names_by_length}) ([<>]) ({names_by_length}) (.+)")
    lane = 160.0  # apart, and more where the words of a message need it
    for left, _, right, words in (found.groups() for found in map(message_of.fullmatch, lines) if found):
        lane = max(lane, (len(words) * LETTER + 24) / abs(lanes.index(left) - lanes.index(right)))
    at = {name: 110 + lane * place for place, name in enumerate(lanes)}
    width, y, parts = 220 + lane * (len(lanes) - 1), 86.0, list[str]()
    ends: dict[str, float] = {}
    for line in lines:
        if message := message_of.fullmatch(line):
            y += 42
            left, direction, right, words = message.groups()
            begin, end = (at[left], at[right]) if direction == ">" else (at[right], at[left])
            parts.append(_arrow(f"M{begin:g} {y:g}H{end:g}", direction == "<"))
            parts.append(_words((begin + end) / 2, y - 7, words, "ink over"))
        elif note := re.fullmatch(rf"(note|crash) ({names_by_length}) (.+)", line):
            y += 38
            kind, name, words = note.groups()
            half = len(words) * LETTER / 2 + 14
            parts.append(_box(min(max(at[name], half), width - half), y, words, "bad" if kind == "crash" else "note"))
            if kind == "crash":
                y += 24
                parts.append(f'<path class="cross" d="m{at[name] - 7:g} {y - 7:g} 14 14m0-14-14 14"/>\n')
                ends[name] = y
        elif line.startswith("record "):
            y += 36
            parts.append(_box(at["store"], y, line.removeprefix("record "), "record"))
        elif line.startswith("gap "):
            y += 40
            parts.append(_words(width / 2, y + 4, f"… {line.removeprefix('gap ')} …", "soft"))
        else:
            raise ValueError(f"not understood: {line}")
    height = y + 40
    heads = [
        f'<path class="lane" d="M{x:g} 70V{ends.get(name, height - 16):g}"/>\n'
        f'<rect class="box" x="{x - 62:g}" y="46" width="124" height="28" rx="4"/>\n' + _words(x, 65, name, "ink name")
        for name, x in at.items()
    ]
    return heads + parts, width, height


def states(lines: list[str]) -> tuple[list[str], float, float]:
    """The parts of a picture of states, its width and its height."""
    wide, high = 200, 56
    at: dict[str, tuple[float, float]] = {}
    parts = list[str]()
    for line in lines:
        kind, name, rest = line.split(" ", 2)
        if kind == "box":
            x, y, words = rest.split(" ", 2)
            title, said = words.split(" | ")
            left, top = at[name] = (float(x), float(y) + 40)
            parts.append(f'<rect class="box" x="{left:g}" y="{top:g}" width="{wide}" height="{high}" rx="6"/>\n')
            parts.append(_words(left + wide / 2, top + 23, title, "ink name"))
            parts.append(_words(left + wide / 2, top + 42, said, "soft"))
        elif kind == "loop":
            left, top = at[name]
            said = rest.split("; ")
            for number, words in enumerate(said):
                parts.append(_words(left + wide / 2, top - 10 - 17 * (len(said) - 1 - number), words, "soft"))
        else:
            target, words = rest.split(" ", 1)
            (left, top), (to_left, to_top) = at[name], at[target]
            if kind == "arrow":
                begin, end = (left + wide, top + high / 2), (to_left, to_top + high / 2)
                parts.append(_arrow(f"M{begin[0]:g} {begin[1]:g}L{end[0]:g} {end[1]:g}"))
                above = -8 if end[1] == begin[1] else 4
                parts.append(_words((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2 + above, words, "ink over"))
            else:
                height, words = words.split(" ", 1)
                y = float(height) + 40
                begin_x, end_x = left + wide / 2 + (-70 if kind == "under" else 0), to_left + wide / 2
                end_x += 40 if kind == "under" else 0
                begin_y, end_y = (top, to_top) if y < top else (top + high, to_top + high)
                parts.append(_arrow(f"M{begin_x:g} {begin_y:g}V{y:g}H{end_x:g}V{end_y:g}"))
                parts.append(_words((begin_x + end_x) / 2, y + (18 if kind == "under" else 4), words, "ink over"))
    return parts, max(x for x, _ in at.values()) + wide + 60, max(y for _, y in at.values()) + high + 70


def written() -> dict[Path, str]:
    """Every picture's file, and what stands in it."""
    texts = sorted((HERE / "pictures").glob("*.txt"))
    return {HERE / "images" / f"{text.stem}.svg": picture(text.read_text()) for text in texts}


if __name__ == "__main__":
    for file, svg in written().items():
        file.write_text(svg)
