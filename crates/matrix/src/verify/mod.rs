//! What can be proved of an answer, without I/O.
