from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from .identity import node, release


@never_cache
def about(request: HttpRequest, template_name: str = "about/about.html") -> HttpResponse:
    """
    Which release and which node answered this very request: hence never cached.

    `?format=json` touches neither database nor cache, so it answers as long as Django does.
    """
    answered = {"release": release(), "node": node()}
    if request.GET.get("format") == "json":
        return JsonResponse(answered)
    return render(request, template_name, answered)
