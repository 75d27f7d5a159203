"""The foundation: tasks, the outbox (dispatch, event), models, executors, and the records of what happened."""

from __future__ import annotations

from libs.common.adapters.postgres.migrations.statements import run_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_file(__file__)


def downgrade() -> None:
    raise RuntimeError("migrations only go forward: restore a backup to go back")
