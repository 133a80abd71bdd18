//! Discovery over a world of a test's, with a clock of its own.
