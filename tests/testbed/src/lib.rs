//! Real machines for tests and the demonstration.
