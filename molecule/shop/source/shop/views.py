"""One page, and a way to bring a photo."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render

from shop.models import Item


def shelf(request: HttpRequest) -> HttpResponse:
    """Everything there is, and how often this visitor has looked."""
    request.session["looks"] = request.session.get("looks", 0) + 1
    return render(
        request,
        "shop/shelf.html",
        {"name": settings.SHOP_NAME, "items": Item.objects.order_by("name"), "looks": request.session["looks"]},
    )


def photo(request: HttpRequest) -> HttpResponse:
    """Take a photo of an item; tell where it is served."""
    item = get_object_or_404(Item, name=request.POST["item"])
    item.photo.save(request.FILES["photo"].name, request.FILES["photo"])
    return JsonResponse({"url": item.photo.url})
