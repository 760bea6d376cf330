"""Clients of the servers: the only place where each library is imported, and where its errors become ours."""
