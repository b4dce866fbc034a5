"""A stream worker that folds session-update records of shops into exact CustomerSessionV2 snapshots."""
