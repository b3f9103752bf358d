"""Running models on a device behind TVM's RPC: the server to start there and the session here."""
