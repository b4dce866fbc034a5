"""What an operator may set, by environment variables that begin with SESSION_WORKER_ or an .env file."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.domain.model import Rules

PREFIX = "SESSION_WORKER_"


class Settings(BaseSettings):
    """The settings in force; a wrong one is a ValidationError, before anything is opened."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    application_id: int = Field(default=1, ge=0, description="The application whose sessions these are.")
    other_applications: Literal["reject", "skip"] = Field(
        default="reject", description="What to do with update records of another application."
    )
    unknown_fields: Literal["reject", "ignore"] = Field(
        default="reject", description="What to do with fields that the contract does not know."
    )
    max_record_bytes: int = Field(default=1 << 20, ge=1, description="The largest value of an update record.")
    max_snapshot_bytes: int = Field(default=1 << 20, ge=1, description="The largest value of a snapshot.")
    v1_topic: str | None = Field(default=None, min_length=1, description="Where to publish the v1 view, if at all.")

    def rules(self) -> Rules:
        """Give the rules that the pure code needs to know."""
        return Rules(
            application_id=self.application_id,
            other_applications=self.other_applications,
            unknown_fields=self.unknown_fields,
            max_record_bytes=self.max_record_bytes,
            max_snapshot_bytes=self.max_snapshot_bytes,
        )
