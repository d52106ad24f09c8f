"""Alembic's environment: runs on the connection that the store hands over."""

from alembic import context

from evmeter_tools.backend.tables import meta

context.configure(connection=context.config.attributes["connection"], target_metadata=meta)
with context.begin_transaction():
    context.run_migrations()
