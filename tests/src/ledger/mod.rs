//! What was written against what was read: every token of a mock tells whose it is, so that books can be compared.

pub mod token;
