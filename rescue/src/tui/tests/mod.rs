//! The flows driven by messages, without a terminal.
