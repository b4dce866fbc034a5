"""Where the partitions of tables are kept."""
