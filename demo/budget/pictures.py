"""Make an uploaded picture fit for a page."""

from io import BytesIO
from uuid import uuid4

from django.core.files.base import ContentFile
from django.core.files.uploadedfile import UploadedFile
from PIL import Image, ImageOps

LONGEST_SIDE = 1600  # pixels: twice the width of a column, for dense screens


def web_ready(upload: UploadedFile) -> ContentFile:
    """
    Draw the picture anew: upright, of a sensible size, in one format, without what the camera noted.

    Nothing but pixels survives, so neither the place it was taken nor a script hidden in it is
    published. The name is new each time: a file, once published, never changes, and caches may keep it.
    """
    with Image.open(upload) as original:
        picture = ImageOps.exif_transpose(original)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        profile = picture.info.get("icc_profile", b"") if picture.mode in ("RGB", "RGBA") else b""
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    drawn = BytesIO()
    picture.save(drawn, "WEBP", quality=82, icc_profile=profile)
    return ContentFile(drawn.getvalue(), name=f"{uuid4().hex}.webp")
