"""A Prefect block for e-mail through any SMTP server.

The entry point `prefect.collections` registers it, so that every Prefect process of this
environment finds it, also the server. Prefect's own e-mail block supports a single provider.
Prefect imports this module in many processes, so it stays a file with light imports.
"""

from __future__ import annotations

from prefect.blocks.notifications import AppriseNotificationBlock
from pydantic import Field, SecretStr


class Email(AppriseNotificationBlock):
    """E-mail through your own SMTP server, as an Apprise URL."""

    _block_type_name = "Email by SMTP"
    _block_type_slug = "codegen-email"

    url: SecretStr = Field(
        title="URL",
        description="mailtos://USER:PASSWORD@SERVER:PORT?from=SENDER&to=RECIPIENT, "
        "or mailto://... without encryption",
        examples=[
            "mailtos://robot:secret@smtp.example.org:587?from=robot@example.org&to=team@example.org"
        ],
    )
