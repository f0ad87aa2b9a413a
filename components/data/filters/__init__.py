"""Rules on documents: quality filters, exact and near deduplication, decontamination, redaction."""
