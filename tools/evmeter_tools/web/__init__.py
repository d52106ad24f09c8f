"""What people see of the backend: pages, their API, and a session's page for its driver."""
