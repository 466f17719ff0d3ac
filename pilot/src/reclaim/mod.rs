//! Undoing what is in a journal.
