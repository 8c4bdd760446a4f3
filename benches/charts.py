"""A bar chart as SVG, drawn by hand: readable on light and dark pages."""

from __future__ import annotations

from xml.sax.saxutils import escape

COLOURS = ("#2f6fde", "#b0762a", "#7d8590")
WIDTH, LEFT, BAR, GAP = 820, 250, 16, 14


def bars(groups: list[tuple[str, dict[str, float]]], caption: str) -> str:
    """One group of horizontal bars per row; each row has its own scale, its longest bar fills it."""
    names = list(groups[0][1])
    parts, y = [], 44
    for index, name in enumerate(names):
        x = LEFT + index * 180
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{COLOURS[index]}"/>')
        parts.append(f'<text x="{x + 18}" y="23">{escape(name)}</text>')
    for title, times in groups:
        longest = max(times.values())
        middle = y + len(times) * BAR / 2 + 4
        parts.append(f'<text x="{LEFT - 12}" y="{middle:.0f}" text-anchor="end">{escape(title)}</text>')
        for index, time in enumerate(times.values()):
            width = max(2.0, time / longest * (WIDTH - LEFT - 90))
            parts.append(
                f'<rect x="{LEFT}" y="{y + 1}" width="{width:.0f}" height="{BAR - 3}" fill="{COLOURS[index]}"/>'
                f'<text x="{LEFT + width + 6:.0f}" y="{y + BAR - 4}">{time:.1f}</text>'
            )
            y += BAR
        y += GAP
    parts.append(f'<text x="{LEFT}" y="{y + 8}">{escape(caption)}</text>')
    style = "text{font:12px system-ui,sans-serif;fill:#6e7681}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 20}" role="img">'
        f"<style>{style}</style>{''.join(parts)}</svg>\n"
    )
