//! What we speak: calls, server-sent events, what a stream says about itself, and the bodies of the OpenAI API.
//!
//! Everything here is pure: bytes in, bytes out, no clock, no socket. It runs for every token of every stream, so the
//! common case neither allocates nor parses JSON: it looks for a few byte strings and hands out slices of what came in.
//!
//! In the order a stream meets it: a [`Call`] is read from the client's body and re-written for a backend; a
//! [`Splitter`] cuts what the backend answers into whole events; a [`Watch`] looks at each of them and knows in the end
//! whether the answer was complete; [`reply`] reads answers that do not stream; [`openai`] writes what we say ourselves.

pub mod call;
pub mod estimate;
pub mod sse;
pub mod watch;
pub mod reply;
pub mod openai;
mod scan;

#[cfg(test)]
mod fuzz;

pub use crate::call::{Call, CallFault, Op};
pub use crate::reply::{BackendError, Usage};
pub use crate::sse::{Block, Decoder, Event, Keep, Splitter, TooLong, Visit};
pub use crate::watch::{Ending, Watch};
