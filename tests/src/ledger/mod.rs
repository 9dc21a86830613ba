//! What was written against what was read: every token of a mock tells whose it is, so that books can be compared.
//!
//! A [`Reader`] checks one stream while its client reads it and keeps no token; what it closes with is an [`Account`].
//! [`Books`] put the accounts beside what the mocks wrote down and what the gateway recorded, and name every
//! [`Violation`] of an [`Invariant`]. [`Secrets`] and [`Memory`] watch what no book tells.

pub mod token;
mod violation;
mod reader;
mod record;
mod books;
mod secrets;
mod memory;

pub use self::books::{Books, Sums};
pub use self::memory::{Memory, Sample};
pub use self::reader::{Account, Close, Ending, Reader, Shape, Transport};
pub use self::record::Record;
pub use self::secrets::Secrets;
pub use self::violation::{Invariant, Violation};
