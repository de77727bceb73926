"""Images: folders of them, one subfolder a class, those that rows name, and from a file to what a model reads (no torch before
it is needed)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import BadInput
from advisor.data.files import EVALUATION_STEMS, TRAIN_STEMS, Rows

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
COLUMNS = ("image", "label")
IN_ROWS = ("images", "image", "img")  # columns that name images beside texts
SOURCES = ("image", "path", "url", "image_url", "file_name")  # fields of an object that name one
DIGEST_BYTES = 65_536  # of a file, beside its size, tell it from others


@dataclass(frozen=True)
class ImageFile:
    """A cell of a table, or a part of one, that stands for an image; ``data``: its bytes, where the row itself holds them."""

    path: Path
    data: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def digest(self) -> str:
        """Of its size and its beginning: the same wherever it lies. Empty where it cannot be read."""
        if self.data is not None:
            return hashlib.sha256(str(len(self.data)).encode() + self.data[:DIGEST_BYTES]).hexdigest()
        try:
            with self.path.open("rb") as file:
                return hashlib.sha256(str(self.path.stat().st_size).encode() + file.read(DIGEST_BYTES)).hexdigest()
        except (OSError, ValueError):  # ValueError: a path that no file can have
            return ""

    def load(self, mode: str) -> Image:
        """Decoded, in PIL's ``mode``.

        Raises:
            BadInput: it is no image, or a damaged one.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.path if self.data is None else io.BytesIO(self.data)) as image:
                return image.convert(mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
            raise BadInput(f"{self.path} cannot be read: {reason}.", "Remove or replace it.") from error


def named_images(cell: Any, folder: Path) -> list[ImageFile] | str:
    """The images that a cell, or a part of a turn, names, in their order; or why they cannot be read.

    Args:
        cell: a path, relative to ``folder`` or not, a ``data:`` address, an object with one of ``SOURCES`` or with ``bytes``, or
            a list of such.
    """
    if cell is None or cell == "":
        return []
    if isinstance(cell, list | tuple):
        found: list[ImageFile] = []
        for one in cell:
            images = named_images(one, folder)
            if isinstance(images, str):
                return images
            found += images
        return found
    if isinstance(cell, dict):
        data, source = cell.get("bytes"), next((cell[key] for key in SOURCES if cell.get(key)), None)
        if isinstance(data, bytes):
            return [ImageFile(Path(source if isinstance(source, str) else "image"), data)]
        return named_images(source, folder) if source is not None else "with an image that no path names"
    if not isinstance(cell, str):
        return "with an image that no path names"
    if cell.startswith("data:"):
        try:
            return [ImageFile(Path("image"), base64.b64decode(cell.partition(",")[2], validate=True))]
        except (binascii.Error, ValueError):
            return "with a damaged data: address"
    if cell.startswith(("http://", "https://")):
        return "with an image at a web address (only files are read)"
    return [ImageFile(folder / cell.removeprefix("file://"))]


def read_image_folder(folder: Path, stems: Sequence[str]) -> tuple[str, list[str], Rows] | None:
    """(place, notes, rows) of the first part of ``stems`` in ``folder``. One without parts is all training data, or
    whatever it was named for where ``stems`` is empty.

    A part, and a folder without parts, holds one subfolder a class; images may lie deeper in it. None: nothing of the kind.

    Raises:
        BadInput: images without class folders, or the folder cannot be read.
    """
    try:
        parts = {place.name.lower(): place for place in folder.iterdir() if place.is_dir()}
        divided = any(stem in parts for stem in (*TRAIN_STEMS, *EVALUATION_STEMS))
        place = next((parts[stem] for stem in stems if stem in parts), None)
        if not divided and (not stems or "train" in stems):
            place = folder
        if place is None:
            return None
        classes = {
            name.name: [file for file in sorted(name.rglob("*")) if file.is_file() and not file.name.startswith(".")]
            for name in sorted(place.iterdir())
            if name.is_dir() and not name.name.startswith(".")
        }
        loose = any(_is_image(file) for file in place.iterdir())
    except OSError as error:
        raise BadInput(f"The folder {folder} cannot be read: {error.strerror}.", "Check its permissions.") from error
    images = {name: [file for file in files if _is_image(file)] for name, files in classes.items()}
    if not any(images.values()):
        if loose:
            raise BadInput(f"{place} holds images but no class folders.", "Put them into one subfolder a class, named after it.")
        return None
    notes = [f"The images of {place}; each subfolder is a class."]
    if empty := [name for name, files in images.items() if not files]:
        notes.append(f"Left out: subfolders without an image: {_some(empty)}.")
    if others := [f"{name}/{file.name}" for name, files in classes.items() for file in files if not _is_image(file)]:
        notes.append(f"Left out: {len(others)} {'file' if len(others) == 1 else 'files'} of another kind: {_some(others)}.")
    return str(place), notes, _rows(images)


def _rows(images: dict[str, list[Path]]) -> Iterator[tuple[str, dict[str, Any]]]:
    image, label = COLUMNS
    return ((str(file), {image: ImageFile(file), label: name}) for name, files in images.items() for file in files)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:5]) + (", …" if len(names) > 5 else "")


def mode_of(config: Any) -> str:
    """PIL's mode of the images that a model reads: grey or colours."""
    return "L" if getattr(config, "num_channels", 3) == 1 else "RGB"


def blank_image(config: Any) -> Image:
    """A black one of some size, for what does not depend on what is seen."""
    from PIL import Image

    return Image.new(mode_of(config), (64, 64))


def image_batch(images: Sequence[Image], processor: Any) -> torch.Tensor:
    """Pixel values [images, channels, height, width] as transformers' image processor makes them."""
    pixels: torch.Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return pixels
