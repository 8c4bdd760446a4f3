"""The application's entry in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["PyidempotentConfig"]


class PyidempotentConfig(AppConfig):
    """Registers the system checks; the management command is found by its place."""

    name = "pyidempotent.django"
    label = "pyidempotent"
    verbose_name = "Idempotency keys"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Called by Django when every application is there."""
        from pyidempotent.django import _checks

        _checks.register()
