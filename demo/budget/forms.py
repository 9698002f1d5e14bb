from django import forms
from django.core.files.base import File
from django.core.files.uploadedfile import UploadedFile

from .models import Story
from .pictures import web_ready

MOST_PIXELS = 50_000_000  # a drawn pixel takes four bytes of memory, whatever the file weighs


class StoryForm(forms.ModelForm):
    class Meta:
        model = Story
        fields = ["title", "date", "status", "text", "picture", "caption"]
        widgets = {"date": forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})}

    def clean_picture(self) -> File | None:
        picture = self.cleaned_data["picture"]
        if not isinstance(picture, UploadedFile):  # none, the one it has, or the wish to be rid of it
            return picture
        width, height = picture.image.size
        if width * height > MOST_PIXELS:
            raise forms.ValidationError("This picture has too many pixels; make it smaller first.")
        try:
            return web_ready(picture)
        except Exception:  # Pillow raises whatever a damaged file makes it trip over
            raise forms.ValidationError("This picture cannot be read: it may be damaged.") from None
