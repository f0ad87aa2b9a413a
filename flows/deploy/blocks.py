"""Blocks of ours that Prefect's server needs to know: e-mail by any SMTP server.

Registered under the entry point `prefect.collections`, so that every Prefect of this environment, the server's too, finds
it. Prefect itself only mails through one company's service. Kept light: it is imported wherever Prefect looks for blocks.
"""

from __future__ import annotations

from prefect.blocks.notifications import AppriseNotificationBlock
from pydantic import Field, SecretStr


class Email(AppriseNotificationBlock):
    """E-mail by an SMTP server of one's own, as an Apprise address."""

    _block_type_name = "Email by SMTP"
    _block_type_slug = "codegen-email"

    url: SecretStr = Field(
        title="Address",
        description="mailtos://USER:PASSWORD@SERVER:PORT?from=SENDER&to=RECIPIENT (mailto:// without encryption)",
        examples=[
            "mailtos://robot:secret@smtp.example.org:587?from=robot@example.org&to=team@example.org"
        ],
    )
