"""Worker processes: requests and replies as lines of JSON, and how each end sees the other end."""
