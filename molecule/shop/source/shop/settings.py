"""As a project is written that has never heard of this tier."""

import ctypes
import os
import pathlib

ctypes.CDLL("libmagic.so.1")  # needs a Debian package

SECRET_KEY = os.environ["SHOP_KEY"]
SHOP_NAME = os.environ["SHOP_NAME"]
DEBUG = False
INSTALLED_APPS = ["django.contrib.sessions", "django.contrib.staticfiles", "shop"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "shop.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": pathlib.Path(__file__).with_name("db.sqlite3")}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/elsewhere/"
USE_TZ = True
