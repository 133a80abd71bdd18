//! How a homeserver is found, reached and asked, and whose keys are whose.
