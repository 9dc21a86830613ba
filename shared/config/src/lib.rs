//! The configuration: from what a person wrote to what cannot be wrong. Pure: no IO, no clock.
