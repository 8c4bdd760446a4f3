"""What Django's admin knows records by. There is no table: records live in the backend."""

from __future__ import annotations

from django.db import models

__all__ = ["Record"]


class Record(models.Model):
    """A record of an idempotency key, so that there are permissions to see and to change them."""

    class Meta:
        """No table, and no permission to add or to delete."""

        managed = False
        app_label = "pyidempotent"
        verbose_name = "idempotency key"
        verbose_name_plural = "idempotency keys"
        default_permissions = ("view", "change")
