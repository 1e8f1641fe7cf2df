"""The contact sheet: one picture of a grid of pictures, emotions down, levels across, labelled.

Knows only images and words. It deliberately does not know what made the pictures, where the sheet
is stored, or what a reader thinks of them. Labels use the font inside Pillow, so a sheet looks the
same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from studio.page import COLOURS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# A cell is the picture's own size within these limits: smaller pictures are enlarged so that the
# labels fit beside them, larger ones reduced so that 12 emotions by 6 levels stay under 4 MP.
SMALLEST, LARGEST = 112, 224
GAP = 6
MARGIN = 18
PAPER, INK, SOFT = "#faf9f6", "#1d1f24", "#62656e"


def contact_sheet(
    rows: Sequence[Sequence[Picture | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    title: str = "",
    subtitle: str = "",
) -> Picture:
    """Lay out `rows` (one a label, None leaves a cell empty) and return an RGB picture.

    Raises ValueError when a row's length and the labels disagree.
    """
    if len(rows) != len(row_labels) or any(len(row) != len(column_labels) for row in rows):
        sizes = sorted({len(row) for row in rows})
        msg = (
            f"contact sheet: {len(row_labels)} row and {len(column_labels)} column labels for "
            f"{len(rows)} rows of {sizes}; give one label a row and one a column"
        )
        raise ValueError(msg)
    first = next((image for row in rows for image in row if image is not None), None)
    width, height = (SMALLEST, SMALLEST) if first is None else _cell(*first.size)

    small = _font(max(12, min(width, height) // 9))
    head = _font(max(16, min(width, height) // 7))
    left = MARGIN + max((round(small.getlength(text)) for text in row_labels), default=0) + 14
    title_height = _line(head) if title else 0
    subtitle_height = _line(small) if subtitle else 0
    top = MARGIN + title_height + subtitle_height + (8 if title or subtitle else 0) + _line(small)
    size = (
        left + len(column_labels) * (width + GAP) - GAP + MARGIN,
        top + len(rows) * (height + GAP) - GAP + MARGIN,
    )

    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    room = size[0] - 2 * MARGIN
    if title:
        draw.text((MARGIN, MARGIN), _fit(title, head, room), fill=INK, font=head)
    if subtitle:
        place = (MARGIN, MARGIN + title_height)
        draw.text(place, _fit(subtitle, small, room), fill=SOFT, font=small)
    for column, text in enumerate(column_labels):
        centre = left + column * (width + GAP) + width // 2
        draw.text((centre, top - 5), text, fill=SOFT, font=small, anchor="ms")
    for row, (images, text) in enumerate(zip(rows, row_labels, strict=True)):
        y = top + row * (height + GAP)
        colour = COLOURS.get(text.split(" ")[0], INK)
        draw.text((left - 12, y + height // 2), text, fill=colour, font=small, anchor="rm")
        for column, image in enumerate(images):
            x = left + column * (width + GAP)
            if image is None:
                draw.rectangle((x, y, x + width - 1, y + height - 1), outline="#d8d5cc")
                continue
            cell = image.convert("RGB")
            if cell.size != (width, height):
                cell = cell.resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (x, y))
    return sheet


def _cell(width: int, height: int) -> tuple[int, int]:
    """The cell for pictures of this size: same shape, long side within the limits."""
    side = max(width, height)
    scale = min(max(side, SMALLEST), LARGEST) / side
    return max(1, round(width * scale)), max(1, round(height * scale))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _line(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    box = font.getbbox("Ág")
    return round((box[3] - box[1]) * 1.5)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """`text` shortened with an ellipsis until it is at most `room` pixels wide."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
