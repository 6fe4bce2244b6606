//! States, lies and damage.
